"""
Write a submission in the sample's format, from one probs file or a weighted mean of several.

Each file is calibrated with its judge's judge.json before the mean. Samples of LMSYS (winner_model_a, winner_model_b,
winner_tie: probabilities), of WSDM (winner: model_a or model_b) and of the same kinds are supported.

--weights takes one number per probs file, or a rule in JSON, such as {"by": "tokens", "parts": [{"up_to": 600,
"weights": [0.5, 0.5]}, {"weights": [0.9, 0.1]}]}. A rule is by language or by tokens of prompt and responses, counted
with the first judge's tokenizer or with the rule's "tokenizer" (a folder or Hub id). --fit fits weights to the log
loss on battles that the judges were not trained on; cross-validation selects the form of the rule and the mean (of
probabilities or of their logs). If a judge did not score a battle, the mean is over the others.
"""

from pathlib import Path

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import InputPath, OutputPath

EXAMPLE = "sft-judge submit --probs probs.parquet --sample sample_submission.csv --output submission.csv"


def add_arguments(parser):
    parser.add_argument("--probs", type=InputPath, nargs="+", required=True, help="probs files, one per judge")
    parser.add_argument("--sample", type=InputPath, required=True, help="the competition's sample_submission.csv")
    parser.add_argument("--output", type=OutputPath, required=True, help="CSV file to write")
    parser.add_argument("--weights", nargs="+", metavar="W", help="one weight per probs file, or RULE.json (equal)")
    parser.add_argument("--battles", type=InputPath, help="battles of --probs, for weights by tokens or language")
    parser.add_argument(
        "--fit",
        type=InputPath,
        nargs="+",
        metavar="F",
        help="probs files of held-out battles to fit weights on, in the order of --probs",
    )
    parser.add_argument("--fit-battles", type=InputPath, metavar="F", help="battles of --fit, with verdicts")
    parser.add_argument(
        "--by", nargs="+", choices=("tokens", "language"), default=[], help="with --fit, also try weights by these"
    )
    parser.add_argument(
        "--save-weights", type=OutputPath, metavar="RULE.json", help="file to write the fitted rule to"
    )
    parser.add_argument("--uncalibrated", action="store_true", help="do not calibrate the probabilities")


def extra_inputs(args):
    from sft_judge.inference.calibrated import judge_files

    rules = [Path(args.weights[0])] if _is_rule(args.weights) else []
    return rules + ([] if args.uncalibrated else judge_files([*args.probs, *(args.fit or [])]))


def run(args) -> dict:
    import numpy as np

    from sft_judge.data.probs import read_probs
    from sft_judge.inference.calibrated import calibrate_probs
    from sft_judge.inference.ensemble import combine, write_rule
    from sft_judge.inference.submission import arrange_probs, describe_member, find_rows, read_sample, write_submission
    from sft_judge.inference.token_lengths import tokenizer_of_rule

    sample = read_sample(args.sample)
    rule, fit_result = _rule(args, sample.num_verdicts)
    files = {path: read_probs(path) for path in args.probs}
    results = {path: calibrate_probs(probs, args.uncalibrated) for path, probs in files.items()}
    members = [arrange_probs(path, results[path], files[path], sample) for path in args.probs]
    judged = np.stack([results[path].orders[find_rows(path, results[path], sample)] > 0 for path in args.probs], 1)
    for path in args.probs:
        print(describe_member(path, results[path], sample))
    keys = _keys(args.battles, rule.by, sample.ids, lambda: tokenizer_of_rule(rule, files[args.probs[0]]))
    weights = rule.weights(keys, len(sample.ids))
    write_submission(args.output, sample, combine(members, weights, sample.num_verdicts, rule.mean, judged))
    if args.save_weights:
        write_rule(args.save_weights, rule, fit_result)
    print(f"{args.output}: {len(sample.ids)} rows, {', '.join(sample.columns)}")
    return {"rows": len(sample.ids), "members": len(members), "rule": vars(rule), **fit_result}


def _is_rule(weights: list[str] | None) -> bool:
    return bool(weights) and len(weights) == 1 and weights[0].endswith(".json")


def _rule(args, num_asked: int):
    """Return the rule of --weights or --fit, and facts about the fit."""
    from sft_judge.inference.ensemble import Rule, equal_rule, normalise_weights, read_rule

    if args.fit and args.weights:
        raise InputError("--weights and --fit cannot be combined; remove one of them.")
    if bool(args.fit) != bool(args.fit_battles) or ((args.by or args.save_weights) and not args.fit):
        raise InputError("--fit PROBS... and --fit-battles F go together; --by and --save-weights need both.")
    if args.fit:
        _as_many(len(args.fit), "files to fit on", args)
        return _fit_weights(args, num_asked)
    if args.weights is None:
        return equal_rule(len(args.probs)), {}
    if _is_rule(args.weights):
        rule = read_rule(Path(args.weights[0]))
        _as_many(len(rule.parts[0]["weights"]), "weights", args)
        return rule, {}
    try:
        numbers = [float(weight) for weight in args.weights]
    except ValueError as error:
        raise InputError(
            f"--weights {' '.join(args.weights)}: expected numbers or the .json file of a rule."
        ) from error
    _as_many(len(numbers), "weights", args)
    return Rule([{"weights": normalise_weights(numbers).tolist()}]), {}


def _as_many(count: int, what: str, args) -> None:
    if count != len(args.probs):
        raise InputError(f"{count} {what} for {len(args.probs)} probs files; give one per file, in their order.")


def _fit_weights(args, num_asked: int):
    import numpy as np

    from sft_judge.data.battles import read_battles
    from sft_judge.data.probs import first_verdicts, read_probs
    from sft_judge.evaluation.align import align_judges
    from sft_judge.inference.ensemble import choose_rule
    from sft_judge.inference.token_lengths import tokenizer_hash, tokenizer_of_judge

    battles = read_battles(args.fit_battles)
    predicted_ids = set.intersection(*(set(read_probs(path).ids) for path in args.fit))  # files may hold a single fold
    predicted = np.array([name in predicted_ids for name in battles["id"].to_pylist()])
    if not predicted.any():
        raise InputError(f"No battle of {args.fit_battles} is in all of {', '.join(map(str, args.fit))}.")
    aligned = align_judges(dict(enumerate(args.fit)), battles, args.fit_battles, predicted, raw=args.uncalibrated)
    for judge in aligned.judges.values():
        _not_in_sample(judge.source, aligned.battles)
    num = min(aligned.num_verdicts, num_asked)
    keep = np.all([~np.isnan(judge.orders[..., 0]).all(axis=1) for judge in aligned.judges.values()], axis=0)
    keep &= aligned.verdicts < num
    if not keep.any():
        raise InputError(f"No battle of {args.fit_battles} was judged by all of them.")
    ids = np.array(aligned.battles["id"].to_pylist(), dtype=object)[keep]
    tokenizer, named = tokenizer_of_judge(read_probs(args.fit[0])) if "tokens" in args.by else (None, None)
    keys = {by: _keys(args.fit_battles, by, ids, lambda: tokenizer) for by in args.by}
    members = [first_verdicts(judge.probs[keep], num) for judge in aligned.judges.values()]
    rule, losses = choose_rule(members, aligned.verdicts[keep], aligned.clusters[keep], keys)
    if rule.by == "tokens":
        rule.tokenizer, rule.tokenizer_sha256 = named, tokenizer_hash(tokenizer)
    for name, loss in losses:
        print(f"{loss:.4f}  {name}")
    print(f"on {keep.sum()} battles, log loss in cross-validation by prompt; selected: {losses[0][0]}")
    for part in rule.parts:
        where = f"up to {part['up_to']} tokens: " if "up_to" in part else f"{part.get('language') or ''}: "
        print(f"  {where.lstrip(': ')}{', '.join(f'{weight:.3f}' for weight in part['weights'])}")
    return rule, {"fitted_on": int(keep.sum()), "log_losses": dict(losses)}


def _not_in_sample(probs, battles) -> None:
    """Raise `GateError` if a judge was trained on a fold of the battles that weights are fitted on."""
    from sft_judge.evaluation.align import column
    from sft_judge.inference.calibrated import folds_seen

    learnt = sorted(set(folds_seen(probs)) & set(column(battles, "fold")))
    if learnt:
        raise GateError(
            f"{probs.metadata['model']} was trained on fold {', '.join(map(str, learnt))} of these battles, so "
            "weights fitted on them would trust it too much. Fit on held-out battles, or on the output of "
            "`predict --out-of-fold`."
        )


def _keys(path, by: str | None, ids, tokenizer):
    """Return lengths in tokens, or languages, of the battles with `ids` `[N]`; call `tokenizer()` only if needed."""
    import numpy as np

    from sft_judge.data.battles import read_battles
    from sft_judge.evaluation.align import column
    from sft_judge.inference.token_lengths import token_lengths

    if by is None:
        return None
    if path is None:
        raise InputError(f"Weights by {by} need the battles of --probs: --battles F.")
    battles = read_battles(path)
    place_of = {id_: place for place, id_ in enumerate(battles["id"].to_pylist())}
    missing = [id_ for id_ in ids if id_ not in place_of]
    if missing:
        raise InputError(f"{path}: no battle {missing[0]!r}, but there are probabilities of it.")
    battles = battles.take([place_of[id_] for id_ in ids])
    if by == "tokens":
        return token_lengths(battles, tokenizer())
    return np.array([value or "unknown" for value in column(battles, "language")], dtype=object)
