"""
Fit a calibration on held-out rows and store it in the judge's judge.json.

The form with the lowest log loss in cross-fitting is kept: none, one temperature, or vector scaling with a and b tied,
so that exchanging the responses still exchanges the result. A language gets its own parameters if it has enough rows.
Nothing is fitted on too few prompts, on rows with a single verdict, or if the judge makes no error, unless its own
probabilities make that unlikely (below 5 %) or --form is given. Each fit is
regularised towards no calibration, with the weight of 35 prompts per parameter; an already calibrated judge loses at
most 0.004 nats on average. The probs file stays raw. Battles without a verdict are skipped and counted. Rows of folds
that the judge was trained on are refused: fitted on them, the judge would become overconfident.

--output writes a copy of the probs file (or of --apply, another file of the same judge) that contains the calibration.
It replaces --model, or is given beside it: for probs of somebody else's judge, and for machines without the judge's
folder.
"""

from sft_judge.commands.arguments import add_limit, natural
from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import InputPath, OutputPath, content_hash

EXAMPLE = (
    "sft-judge calibrate --probs runs/demo/kept.parquet --battles runs/demo/battles.parquet "
    "--model runs/demo/judge-w4a16"
)


def add_arguments(parser):
    parser.add_argument("--probs", type=InputPath, required=True, help="the judge's probs file of the battles")
    parser.add_argument("--battles", type=InputPath, required=True, help="battles with verdicts")
    parser.add_argument("--model", type=InputPath, help="the judge's folder, whose judge.json is changed")
    parser.add_argument("--output", type=OutputPath, metavar="F", help="probs file to write, with the calibration")
    parser.add_argument("--apply", type=InputPath, metavar="PROBS", help="probs file to copy to --output (--probs)")
    parser.add_argument(
        "--form",
        choices=("temperature", "vector"),
        help="keep this form, even without a gain or an error of the judge (chosen by cross-fitting)",
    )
    parser.add_argument("--fold", type=natural, metavar="N", help="use only the battles of this held-out fold")
    add_limit(parser)


def outputs(args):
    folder = [args.model / "calibration"] if args.model else []  # beside judge.json, the manifest alone
    return [*folder, *([args.output] if args.output else [])]


def run(args) -> dict:
    from sft_judge.data.probs import read_probs
    from sft_judge.evaluation.calibration_fit import choose_calibration
    from sft_judge.modeling.judge_spec import read_spec

    if not (args.model or args.output) or (args.apply and not args.output):
        raise InputError("Give --model DIR, --output F or both. --apply needs --output F, which is a copy of it.")
    if args.model:
        _check_own_folder(args.model)
        read_spec(args.model)  # raises an error that tells what is wrong
    probs = read_probs(args.probs)
    for each in [probs, *([read_probs(args.apply)] if args.apply else [])]:
        _check_judge(args.model, each)
    held, counts = _rows(args, probs)
    if args.form == "vector" and held.probs.shape[1] == 2:
        raise InputError(
            f"--form vector scales ties separately, but {args.probs} has a and b alone. Use --form temperature."
        )
    calibration, evidence = choose_calibration(held, args.form)
    result = {"fitted_rows": len(held.verdicts), "fold": args.fold, "battles_sha256": content_hash(args.battles)}
    calibration = calibration and calibration | result | evidence
    _store(args, calibration)
    print("\n".join(_describe_calibration(calibration, evidence, result["fitted_rows"])))
    print(f"skipped: {', '.join(f'{count} {why}' for why, count in counts.items())}")
    return {"calibration": calibration, "evidence": evidence, "skipped": counts}


def _store(args, calibration: dict | None) -> None:
    from sft_judge.data.probs import read_probs, write_probs
    from sft_judge.modeling.judge_spec import read_spec, write_spec

    if args.model:
        spec = read_spec(args.model)
        spec.calibration = calibration
        write_spec(args.model, spec)
    if args.output:
        probs = read_probs(args.apply or args.probs)
        probs.metadata |= {"calibration": calibration, "source": str(args.apply or args.probs)}
        write_probs(args.output, probs)


def _check_own_folder(model) -> None:
    """Raise `InputError` for a judge on the Hub or in its cache, which are not written to."""
    from sft_judge.core.model_files import is_local, name_of

    name = name_of(model)
    if not is_local(model) or name != str(model):
        raise InputError(
            f"{name} is a judge on the Hub, which `calibrate` does not change. Download it (hf download "
            f"{name.split('@')[0]} --local-dir DIR), calibrate DIR and upload it with `sft-judge push`."
        )


def _check_judge(model, probs) -> None:
    """Raise `InputError` if `probs` are of another judge than `model`, or without `model` of a judge on this disk."""
    from sft_judge.core.model_files import judge_hash
    from sft_judge.inference.calibrated import find_judge

    made_by = probs.metadata.get("model")
    here = find_judge(probs.metadata, probs.path)
    if model is None and here:
        raise InputError(f"{probs.path}: made by {here}; give it as --model.")
    if model is not None and probs.metadata.get("judge") not in (None, judge_hash(model)):
        raise InputError(
            f"{probs.path}: made by {made_by}, which is another judge than {model}, or {model} has changed since."
        )


def _describe_calibration(calibration: dict | None, evidence: dict, rows: int) -> list[str]:
    from sft_judge.evaluation.bootstrap import MIN_ERRORS
    from sft_judge.evaluation.reporting.tables import number
    from sft_judge.modeling.temperature_scaling import describe_calibration

    before, after, gain = (evidence[name] for name in ("before", "after", "gain"))
    if "too_little" in evidence:
        return [f"nothing fitted on {rows} rows: {evidence['too_little']}; the probabilities stay raw"]
    if calibration is None:
        return [
            f"nothing fitted: on {rows} rows no calibration lowers the log loss in cross-fitting, which is "
            f"{number(before['log_loss'])}; the probabilities stay raw"
        ]
    few = f"; the judge errs in {evidence['errors']} of the rows, and an interval needs {MIN_ERRORS} errors"
    return [
        f"{describe_calibration(calibration)}, fitted on {rows} rows",
        f"log loss {number(before['log_loss'])} before, {number(after['log_loss'])} after; ECE "
        f"{number(before['ece'])} before, {number(after['ece'])} after, on the rows that it was fitted on",
        f"in cross-fitting by prompt it gains {number(gain)}" + (few if gain["low"] is None else ""),
    ]


def _rows(args, probs) -> tuple:
    """Return the rows to fit on and the counts of skipped rows; raise `GateError` for a row of a training fold."""
    import numpy as np

    from sft_judge.data.battles import read_battles, rows_of_fold
    from sft_judge.data.preparing.prompt_groups import group_prompts
    from sft_judge.data.probs import average_orders
    from sft_judge.evaluation.align import VERDICT_INDEX, column
    from sft_judge.evaluation.calibration_fit import HeldOut
    from sft_judge.inference.calibrated import languages_of

    battles = rows_of_fold(read_battles(args.battles), args.fold, args.battles).slice(0, args.limit)
    ids, averaged, orders = average_orders(probs)
    num, row_of = probs.num_verdicts, {id_: row for row, id_ in enumerate(ids) if orders[row]}
    used, verdicts = [], []
    counts = {"without a verdict": 0, "without probabilities": 0, "ties of an a/b judge": 0}
    for place, (id_, verdict) in enumerate(zip(*(column(battles, name) for name in ("id", "verdict")), strict=True)):
        index = VERDICT_INDEX.get(verdict)
        if index is None:
            counts["without a verdict"] += 1
        elif id_ not in row_of:
            counts["without probabilities"] += 1
        elif index >= num:
            counts["ties of an a/b judge"] += 1
        else:
            used.append(place)
            verdicts.append(index)
    if not used:
        raise InputError(
            f"{args.probs}: no row to fit on. Of {battles.num_rows} battles in {args.battles}, "
            f"{counts['without a verdict']} have no verdict and {counts['without probabilities']} have no "
            "probabilities. Predict labelled battles first."
        )
    battles = battles.take(used)
    _check_folds(args, column(battles, "fold"))
    rows = [row_of[id_] for id_ in battles["id"].to_pylist()]
    languages = languages_of(probs, ids)[rows]  # those of the probs file, as its readers have no other source
    return HeldOut(averaged[rows, :num], np.array(verdicts), group_prompts(battles), languages), counts


def _check_folds(args, folds: list) -> None:
    from sft_judge.modeling.judge_spec import read_spec

    seen = set(read_spec(args.model).training.get("folds_seen") or []) if args.model else set()
    in_sample = sorted(seen & set(folds))
    if in_sample:
        raise GateError(
            f"{args.model} was trained on fold {', '.join(map(str, in_sample))} of these rows, so a calibration "
            "fitted on them is in-sample. Give --fold N for a held-out fold."
        )
