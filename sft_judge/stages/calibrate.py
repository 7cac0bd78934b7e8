"""
Fit one temperature on rows the judge did not see, and store it in its judge.json.

The probs file is read raw; battles without a verdict are skipped and counted. Rows of a fold that the judge was
trained on are refused: a temperature fitted there makes the judge bolder than it deserves.
"""

from sft_judge.errors import GateError, InputError
from sft_judge.files import InputPath, content_hash
from sft_judge.stages import add_limit

EXAMPLE = "sft-judge calibrate --probs probs-kept.parquet --battles battles.parquet --model runs/demo/judge --fold 4"


def add_arguments(parser):
    parser.add_argument("--probs", type=InputPath, required=True, help="what the judge said of these battles")
    parser.add_argument("--battles", type=InputPath, required=True, help="battles with verdicts")
    parser.add_argument("--model", type=InputPath, required=True, help="the judge's folder; its judge.json is changed")
    parser.add_argument("--fold", type=int, metavar="N", help="only the battles of this fold, kept from training")
    add_limit(parser)


def outputs(args):
    return [args.model / "calibration"]  # no file of its own: the manifest is calibration.manifest.json


def run(args) -> dict:
    from sft_judge.calibration import fit_temperature, mean_log_loss
    from sft_judge.probs import read_probs
    from sft_judge.spec import read_spec, write_spec

    spec = read_spec(args.model)
    probs, verdicts, counts = _rows(args, read_probs(args.probs), spec)
    temperature = fit_temperature(probs, verdicts)
    spec.calibration = {
        "temperature": temperature,
        "fitted_rows": len(verdicts),
        "log_loss_before": mean_log_loss(probs, verdicts),
        "log_loss_after": mean_log_loss(probs, verdicts, temperature),
        "battles_sha256": content_hash(args.battles),
    }
    write_spec(args.model, spec)
    print(
        f"temperature {temperature:.4f} on {len(verdicts)} rows: log loss "
        f"{spec.calibration['log_loss_before']:.4f} before, {spec.calibration['log_loss_after']:.4f} after"
    )
    print(f"skipped: {', '.join(f'{count} {why}' for why, count in counts.items())}")
    return {"calibration": spec.calibration, "skipped": counts}


def _rows(args, probs, spec) -> tuple:
    """Raw averaged probabilities [N, K], verdicts [N] and what was skipped. Raises when a row was trained on."""
    import numpy as np

    from sft_judge.battles.schema import read_battles, rows_of_fold
    from sft_judge.evaluate.align import VERDICT_INDEX, column
    from sft_judge.probs import average_orders

    battles = rows_of_fold(read_battles(args.battles), args.fold, args.battles).slice(0, args.limit)
    ids, averaged, orders = average_orders(probs)
    num, row_of = probs.num_verdicts, {id_: row for row, id_ in enumerate(ids) if orders[row]}
    used, seen = [], set()
    counts = {"without a verdict": 0, "without probabilities": 0, "ties of an a/b judge": 0}
    for id_, verdict, fold in zip(*(column(battles, name) for name in ("id", "verdict", "fold")), strict=True):
        index = VERDICT_INDEX.get(verdict)
        if index is None:
            counts["without a verdict"] += 1
        elif id_ not in row_of:
            counts["without probabilities"] += 1
        elif index >= num:
            counts["ties of an a/b judge"] += 1
        else:
            used.append((row_of[id_], index))
            seen.add(fold)
    if not used:
        raise InputError(
            f"{args.probs}: no row to fit on; of {battles.num_rows} battles in {args.battles} "
            f"{counts['without a verdict']} have no verdict and {counts['without probabilities']} no probabilities "
            "here. Predict labelled battles first."
        )
    in_sample = sorted(seen & set(spec.training.get("folds_seen") or []))
    if in_sample:
        raise GateError(
            f"{args.model} was trained on fold {', '.join(map(str, in_sample))} of these rows, so a temperature "
            "fitted on them is in-sample. Give --fold N for a fold that was kept from training."
        )
    rows, verdicts = np.array(used).T
    return averaged[rows, :num], verdicts, counts
