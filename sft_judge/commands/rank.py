"""
A ranking of models, from the votes on their battles or from what a judge says of them.

Bradley-Terry, where a tie is half a win of each, as in Chatbot Arena, or Davidson's model, to which ties are a verdict
of their own. With --probs the judge's calibrated probabilities count instead of votes, so battles need none; --from
both adds up the two. Several probs files are averaged. Ratings are Elo's: 400 points are odds of ten to one. Intervals
of 95 % come from drawing whole prompts again, and a rank is shared by models that the data cannot tell apart.

--control length style holds equal what is known to sway people and judges: length, headers, lists, bold text, blocks
of code, each as (a - b) / (a + b). --reference gives Spearman's correlation with ratings from elsewhere.
"""

import argparse

from sft_judge.commands.arguments import add_limit
from sft_judge.commands.console import print_tables
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import InputPath, OutputPath, check_folder, write_json, write_text
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge rank battles.parquet --probs probs.parquet --output runs/ranking"
SOURCES = ("votes", "judge", "both")


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES", help="battles with model_a and model_b")
    parser.add_argument("--probs", type=InputPath, nargs="+", metavar="F", help="what a judge said of them")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="of ranking.json, .csv, .html")
    parser.add_argument("--from", dest="source", choices=SOURCES, help="what counts (judge with --probs, else votes)")
    parser.add_argument("--method", choices=("bradley-terry", "davidson"), default="bradley-terry")
    parser.add_argument("--control", nargs="+", choices=("length", "style"), default=[], help="hold these equal")
    parser.add_argument(
        "--anchor", type=anchor, metavar="MODEL=RATING", help="where the scale is fixed (all models' mean: 1000)"
    )
    parser.add_argument("--reference", type=InputPath, metavar="F", help="ratings to compare with: CSV or JSON")
    parser.add_argument("--uncalibrated", action="store_true", help="raw probabilities")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (0)")
    add_limit(parser)


def anchor(text: str) -> tuple[str, float]:
    """argparse type: `MODEL=RATING`."""
    model, equals, rating = text.rpartition("=")
    try:
        if not equals or not abs(float(rating)) < 1e9:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a model and its rating, as in MODEL=1000") from None
    return model, float(rating)


def outputs(args):
    return [args.output / name for name in ("ranking.json", "ranking.csv", "ranking.html")]


def extra_inputs(args):
    from sft_judge.inference.calibrated import judge_files

    return [] if args.uncalibrated else judge_files(args.probs or [])


def run(args) -> dict:
    from sft_judge.data.battles import open_battles
    from sft_judge.data.style import CONTROLS
    from sft_judge.ranking.comparisons import read_contests
    from sft_judge.ranking.ratings import rate_models, split_off
    from sft_judge.ranking.reference_ratings import read_reference
    from sft_judge.ranking.report import caveats, notes, render_ranking, write_csv

    check_folder(args.output)
    source = args.source or ("judge" if args.probs else "votes")
    if (source == "votes") == bool(args.probs):
        raise InputError(f"--from {source} {'takes no' if args.probs else 'needs a judge:'} --probs.")
    reference = read_reference(args.reference) if args.reference else None
    controls = [name for kind in dict.fromkeys(args.control) for name in CONTROLS[kind]]
    predictions, judge_notes = _predictions(args)
    file = open_battles(args.battles, args.limit)
    with Progress("rank", file.num_rows) as progress:
        everything = read_contests(file, source != "judge", predictions, controls, progress.add)
    contests, left_out = split_off(everything)
    if args.anchor:
        check_anchor(args.anchor[0], contests)
    ranking = rate_models(contests, args.method, args.anchor, reference, args.seed)
    everything.skipped["of models left out"] = len(everything.clusters) - len(contests.clusters)
    ranking |= {"from": source, "rows": file.num_rows, "skipped": everything.skipped}
    ranking |= {"left_out": sorted(sum(left_out, [])), "left_out_groups": left_out}
    ranking |= {"notes": notes(ranking, args.anchor, judge_notes), "caveats": caveats(ranking)}
    tables, page = render_ranking(args.battles.name, ranking)
    write_json(outputs(args)[0], ranking)
    write_csv(outputs(args)[1], ranking)
    write_text(outputs(args)[2], page)
    print_tables(tables)
    print("\n".join([*ranking["notes"], *(f"caveat: {caveat}" for caveat in ranking["caveats"])]))
    print(f"page: {outputs(args)[2]}")
    return {"battles": ranking["battles"], "models": len(contests.models), "skipped": everything.skipped}


def check_anchor(model: str, contests) -> None:
    """Raise `InputError` if the model is not ranked, or how far the others are from it is not known."""
    from sft_judge.ranking.ratings import bounded_models
    from sft_judge.ranking.report import names

    if model not in contests.models:
        raise InputError(
            f"--anchor {model!r}: no such model is ranked.{nearest(model, contests.models)} "
            f"There are {names(contests.models)}."
        )
    bounded = contests.keep(bounded_models(contests)).models
    if model not in bounded:
        raise InputError(
            f"--anchor {model!r}: it won or lost all its battles with the others, so how far they are from it is not "
            f"known. Expected a model of which that is known: {names(bounded) or 'there is none'}."
        )


def _predictions(args):
    """The judges' mean probabilities or None, and how each was calibrated."""
    from sft_judge.data.probs import describe_unfinished, read_probs
    from sft_judge.inference.calibrated import calibrate_probs
    from sft_judge.ranking.comparisons import average_predictions

    if not args.probs:
        return None, []
    files = [read_probs(path) for path in args.probs]
    judges = [calibrate_probs(probs, args.uncalibrated) for probs in files]
    notes = [
        "; ".join(filter(None, [f"{path}: {judge.reason}", describe_unfinished(judge.orders)]))
        for path, judge in zip(args.probs, judges, strict=True)
    ]
    if len({probs.num_verdicts for probs in files}) > 1:
        notes.append("A judge knows no tie, so those of all judges are left out.")
    return average_predictions(judges), notes
