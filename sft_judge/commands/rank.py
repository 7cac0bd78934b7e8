"""
Rank models by the votes on their battles or by a judge's probabilities.

The model is Bradley-Terry, in which a tie is half a win for each as in Chatbot Arena, or Davidson's, in which a tie is
its own outcome. With --probs, the judge's calibrated probabilities count instead of votes, so that battles need no
votes; --from both adds both. Several probs files are averaged. Ratings are on the Elo scale: 400 points are odds of
10:1. Intervals of 95 % come from a bootstrap over prompts. Models that the data cannot tell apart share a rank.

--control length style adjusts for properties that are known to sway people and judges: length, headers, lists, bold
text and code blocks, each as (a - b) / (a + b). --reference computes Spearman's correlation with other ratings.
"""

import argparse

from sft_judge.commands.arguments import add_limit, seed
from sft_judge.commands.console import print_tables
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import InputPath, OutputPath, check_folder, write_json, write_text
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge rank battles.parquet --probs probs.parquet --output runs/ranking"
SOURCES = ("votes", "judge", "both")


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES", help="battles with model_a and model_b")
    parser.add_argument(
        "--probs", type=InputPath, nargs="+", metavar="F", help="probs files of the battles, one per judge"
    )
    parser.add_argument(
        "--output", type=OutputPath, required=True, metavar="DIR", help="folder for ranking.json, .csv and .html"
    )
    parser.add_argument(
        "--from", dest="source", choices=SOURCES, help="what to rank by (judge with --probs, else votes)"
    )
    parser.add_argument(
        "--method",
        choices=("bradley-terry", "davidson"),
        default="bradley-terry",
        help="model of ratings (bradley-terry)",
    )
    parser.add_argument(
        "--control", nargs="+", choices=("length", "style"), default=[], help="adjust for these properties"
    )
    parser.add_argument(
        "--anchor",
        type=anchor,
        metavar="MODEL=RATING",
        help="model with a fixed rating (the mean of all models is 1000)",
    )
    parser.add_argument("--reference", type=InputPath, metavar="F", help="ratings to compare with, CSV or JSON")
    parser.add_argument("--uncalibrated", action="store_true", help="do not calibrate the probabilities")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap (0)")
    add_limit(parser)


def anchor(text: str) -> tuple[str, float]:
    """Parse `MODEL=RATING`, as an argparse type."""
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
    """
    Check that the scale can be fixed at a model.

    Args:
        model: name of the model.
        contests: the ranked contests.

    Raises:
        InputError: the model is not ranked, or its distance to the others is unknown because it won or lost all.
    """
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
            f"--anchor {model!r} won or lost all its battles with the others, so its distance to them is unknown. "
            f"Expected a model with a known distance: {names(bounded) or 'there is none'}."
        )


def _predictions(args):
    """Return the judges' mean probabilities (None without --probs), and notes on the calibration of each."""
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
        notes.append("A judge has no tie, so ties of all judges are dropped.")
    return average_predictions(judges), notes
