"""
Fit a calibration on rows the judge did not see, and store it in its judge.json.

The form with the least log loss in cross-fitting is kept: none, one temperature, or vector scaling with a and b tied
(so that exchanging the responses still exchanges the result); a language has parameters of its own where its rows
support them; on few prompts, on one verdict alone, or where the judge errs in no row, nothing is fitted. Every fit is
drawn towards no calibration, as 35 more prompts for each parameter would draw it in which the judge is right: a judge
that is right loses 0.004 nats on average at most. The probs file is read raw and stays raw; battles without a verdict
are skipped and counted. Rows of a fold that the judge was trained on are refused: what is fitted
there makes the judge bolder than it deserves.

With --output, in place of --model or beside it, a copy of the file (or of --apply, another one of the same judge) is
written that carries the calibration: for probs of somebody else's judge, and for another machine, where the judge's
folder is not.
"""

from sft_judge.commands.arguments import add_limit
from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import InputPath, OutputPath, content_hash

EXAMPLE = "sft-judge calibrate --probs probs-kept.parquet --battles battles.parquet --model runs/demo/judge --fold 4"


def add_arguments(parser):
    parser.add_argument("--probs", type=InputPath, required=True, help="what the judge said of these battles")
    parser.add_argument("--battles", type=InputPath, required=True, help="battles with verdicts")
    parser.add_argument("--model", type=InputPath, help="the judge's folder; its judge.json is changed")
    parser.add_argument("--output", type=OutputPath, metavar="F", help="the probs file to write with its calibration")
    parser.add_argument(
        "--apply", type=InputPath, metavar="PROBS", help="what --output is a copy of (default: --probs)"
    )
    parser.add_argument(
        "--form",
        choices=("temperature", "vector"),
        help="keep this one, even without a gain or errors (default: chosen by the rows)",
    )
    parser.add_argument("--fold", type=int, metavar="N", help="only the battles of this fold, kept from training")
    add_limit(parser)


def outputs(args):
    folder = [args.model / "calibration"] if args.model else []  # beside judge.json, the manifest alone
    return [*folder, *([args.output] if args.output else [])]


def run(args) -> dict:
    from sft_judge.data.probs import read_probs
    from sft_judge.evaluation.calibration_fit import choose_calibration
    from sft_judge.modeling.judge_spec import read_spec

    if not (args.model or args.output) or (args.apply and not args.output):
        raise InputError("Give --model DIR, --output F or both; --apply goes with --output, which is a copy of it.")
    if args.model:
        _check_own_folder(args.model)
        read_spec(args.model)  # says what is wrong with it
    probs = read_probs(args.probs)
    for each in [probs, *([read_probs(args.apply)] if args.apply else [])]:
        _check_judge(args.model, each)
    held, counts = _rows(args, probs)
    if args.form == "vector" and held.probs.shape[1] == 2:
        raise InputError(f"--form vector scales ties apart; {args.probs} has a and b alone. Take --form temperature.")
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
    """Raise `InputError` for a judge on the hub, or in the hub's cache: neither is written to."""
    from sft_judge.core.model_files import is_local, name_of

    name = name_of(model)
    if not is_local(model) or name != str(model):
        raise InputError(
            f"{name}: no folder of yours, and a judge on the hub is not written to. Download it (hf download "
            f"{name.split('@')[0]} --local-dir DIR), calibrate DIR, and `sft-judge push` it."
        )


def _check_judge(model, probs) -> None:
    """Raise `InputError` where probs are of another judge than `model`, or, without one, of a judge that is here."""
    from sft_judge.core.model_files import judge_hash
    from sft_judge.inference.calibrated import find_judge

    made_by = probs.metadata.get("model")
    here = find_judge(probs.metadata, probs.path)
    if model is None and here:
        raise InputError(f"{probs.path}: made by {here}; give that as --model.")
    if model is not None and probs.metadata.get("judge") not in (None, judge_hash(model)):
        raise InputError(
            f"{probs.path}: made by {made_by}, which is another judge than {model}, or {model} has changed."
        )


def _describe_calibration(calibration: dict | None, evidence: dict, rows: int) -> list[str]:
    from sft_judge.evaluation.bootstrap import MIN_ERRORS
    from sft_judge.evaluation.reporting.tables import number
    from sft_judge.modeling.temperature_scaling import describe_calibration

    before, after, gain = (evidence[name] for name in ("before", "after", "gain"))
    if "too_little" in evidence:
        return [f"refused: nothing is fitted on {rows} rows: {evidence['too_little']}; the probabilities stay raw"]
    if calibration is None:
        return [
            f"refused: on {rows} rows no calibration has a lower log loss in cross-fitting than none, "
            f"{number(before['log_loss'])}; the probabilities stay raw"
        ]
    few = f"; the judge errs in {evidence['errors']} of the rows, and an interval of that takes {MIN_ERRORS} errors"
    return [
        f"{describe_calibration(calibration)} on {rows} rows",
        f"log loss {number(before['log_loss'])} before, {number(after['log_loss'])} after; ECE "
        f"{number(before['ece'])} before, {number(after['ece'])} after, on the rows it was fitted on",
        f"in cross-fitting by prompt it gains {number(gain)}" + (few if gain["low"] is None else ""),
    ]


def _rows(args, probs) -> tuple:
    """The rows to fit on, and what was skipped. Raises `GateError` when a row was trained on."""
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
            f"{args.probs}: no row to fit on; of {battles.num_rows} battles in {args.battles} "
            f"{counts['without a verdict']} have no verdict and {counts['without probabilities']} no probabilities "
            "here. Predict labelled battles first."
        )
    battles = battles.take(used)
    _check_folds(args, column(battles, "fold"))
    rows = [row_of[id_] for id_ in battles["id"].to_pylist()]
    languages = languages_of(probs, ids)[rows]  # the file's own, as they are all that a reader of it has
    return HeldOut(averaged[rows, :num], np.array(verdicts), group_prompts(battles), languages), counts


def _check_folds(args, folds: list) -> None:
    from sft_judge.modeling.judge_spec import read_spec

    seen = set(read_spec(args.model).training.get("folds_seen") or []) if args.model else set()
    in_sample = sorted(seen & set(folds))
    if in_sample:
        raise GateError(
            f"{args.model} was trained on fold {', '.join(map(str, in_sample))} of these rows, so a calibration "
            "fitted on them is in-sample. Give --fold N for a fold that was kept from training."
        )
