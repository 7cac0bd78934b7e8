"""
A submission in the sample's format, from one probs file or a weighted mean of several.

Each file is calibrated by its judge's own judge.json before the mean. Known samples are those of LMSYS
(winner_model_a, winner_model_b, winner_tie: probabilities) and WSDM (winner: model_a or model_b).
"""

from sft_judge.errors import InputError
from sft_judge.files import InputPath, OutputPath

EXAMPLE = "sft-judge submit --probs probs.parquet --sample sample_submission.csv --output submission.csv"


def add_arguments(parser):
    parser.add_argument("--probs", type=InputPath, nargs="+", required=True, help="one file a judge")
    parser.add_argument("--sample", type=InputPath, required=True, help="the competition's sample_submission.csv")
    parser.add_argument("--output", type=OutputPath, required=True, help="the CSV to write")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one a probs file (default: equal)")
    parser.add_argument("--uncalibrated", action="store_true", help="raw probabilities")


def extra_inputs(args):
    from sft_judge.calibration import judge_files

    return [] if args.uncalibrated else judge_files(args.probs)


def run(args) -> dict:
    from sft_judge.submission import LMSYS, ensemble, read_sample, write_submission

    sample = read_sample(args.sample)
    num = 3 if sample.shape == LMSYS else 2
    members = [_member(path, sample, num, args) for path in args.probs]
    write_submission(args.output, sample, ensemble(members, args.weights, num))
    print(f"{args.output}: {len(sample.ids)} rows, {', '.join(sample.columns)}")
    return {"rows": len(sample.ids), "members": len(members)}


def _member(path, sample, num: int, args):
    """Calibrated probabilities [N, 3] of one file in the sample's order."""
    from sft_judge.calibration import calibrated
    from sft_judge.probs import read_probs

    probs = read_probs(path)
    if probs.num_verdicts < num:
        raise InputError(
            f"{path}: a judge without ties, but {args.sample} asks for winner_tie, where a probability of zero has an "
            "infinite log loss. Use a judge of three verdicts."
        )
    result = calibrated(probs, args.uncalibrated)
    row_of = {id_: row for row, id_ in enumerate(result.ids)}
    missing = [id_ for id_ in sample.ids if id_ not in row_of]
    if missing:
        raise InputError(
            f"{path}: no probabilities for {len(missing)} of {len(sample.ids)} ids of {args.sample}, e.g. "
            f"{missing[0]!r}. Predict all of the test battles."
        )
    extra = len(row_of) - len(sample.ids)
    print(f"{path}: {result.reason}" + (f"; warning: {extra} ids are not in the sample, left out" if extra else ""))
    return result.probs[[row_of[id_] for id_ in sample.ids]]
