"""
Make preference pairs for DPO from several answers to each prompt: prompt, chosen and rejected, as TRL reads them.

Each pair of different candidates is judged once, in both orders. A pair is dropped by the first of these rules that
applies, and counted: the verdict is a tie; the orders disagree; the margin (p_chosen - p_rejected) is below
--min-margin; the pair is not among the --max-per-prompt pairs with the largest margins. --balance-length also drops
pairs with small margins until the chosen answer is as often longer as shorter. OUTPUT.card.md describes the file. Rows
of CANDIDATES are as in `sft-judge best-of-n`. A killed run resumes where it stopped.
"""

import argparse
import sys

from sft_judge.commands.arguments import add_candidates, positive
from sft_judge.core.errors import InputError
from sft_judge.core.files import whole_file
from sft_judge.core.manifest import fingerprint
from sft_judge.core.model_files import name_of

EXAMPLE = "sft-judge preference-pairs samples.jsonl --model runs/judge --output pairs.jsonl --min-margin 0.2"
RULES = ("min_margin", "max_per_prompt", "keep_disagreements", "balance_length", "conversational")


def probability(text: str) -> float:
    """Parse a number from 0 to 1, as an argparse type."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 to 1")
    return float(text)


def add_arguments(parser):
    add_candidates(parser, swap="both")
    parser.add_argument(
        "--conversational", action="store_true", help="write lists of messages instead of plain strings"
    )
    parser.add_argument(
        "--min-margin", type=probability, default=0.1, metavar="X", help="smallest margin, 0 to 1 (0.1)"
    )
    parser.add_argument(
        "--max-per-prompt", type=positive, default=1, metavar="N", help="keep the N pairs with the largest margins (1)"
    )
    parser.add_argument("--keep-disagreements", action="store_true", help="keep pairs on which the orders disagree")
    parser.add_argument(
        "--balance-length",
        action="store_true",
        help="drop pairs until the chosen answer is as often longer as shorter",
    )


def outputs(args) -> list:
    return [args.output, args.output.with_name(args.output.name + ".card.md")]


def run(args) -> dict:
    from sft_judge.data.candidates import read_groups, write_rows
    from sft_judge.inference.contests import Entry
    from sft_judge.modeling.temperature_scaling import describe_calibration
    from sft_judge.ranking.candidate_judging import judge_entries
    from sft_judge.ranking.preference_pairs import Rules, figures, judged_pairs, pair_row, write_card

    entries = [Entry.of(group, "round-robin", args.seed) for group in read_groups(args.candidates, args.limit)]
    judgements_of = argparse.Namespace(
        **{**vars(args), **dict.fromkeys(RULES)}
    )  # judgements do not depend on the rules
    stamp = fingerprint(sys.modules[__name__], judgements_of, args.provenance["inputs"])
    judge, work = judge_entries(args, stamp, entries)
    groups = [judged_pairs(entry) for entry in entries]
    rules = Rules(args.min_margin, args.max_per_prompt, not args.keep_disagreements, args.balance_length)
    pairs, dropped = rules.keep(groups)
    counts = ", ".join(f"{count} {what}" for what, count in dropped.items())
    print(f"{sum(map(len, groups))} pairs judged = {len(pairs)} kept + dropped: {counts}")
    if not pairs:
        raise InputError(
            "No pair is left. The judgements are kept, so another run with other rules does not judge again."
        )
    calibration = judge.spec.calibration
    result = {
        "rows": len(pairs),
        "prompts": len(entries),
        "candidates": sum(len(entry.places) for entry in entries),
        "copies": sum(len(entry.places) - len(entry.texts) for entry in entries),
        "judged": sum(map(len, groups)),
        "dropped": dict(dropped),
        **figures(pairs),
        "calls": judge.calls,
        "model": name_of(args.model),
        "calibration": describe_calibration(calibration) if calibration else "not calibrated",
        "swap": judge.swap,
        "conversational": args.conversational,
        "rules": f"ties dropped; orders that disagree {'kept' if args.keep_disagreements else 'dropped'}; margin at "
        f"least {args.min_margin:g}; at most {args.max_per_prompt} per prompt; lengths "
        f"{'balanced' if args.balance_length else 'not balanced'}",
    }
    write_rows(args.output, [pair_row(pair, args.conversational) for pair in pairs])
    with whole_file(outputs(args)[1]) as aside:
        write_card(aside, result)
    work.clear()
    print(f"{len(pairs)} pairs, mean margin {result['mean_margin']:.3f} -> {args.output}, {outputs(args)[1].name}")
    return result
