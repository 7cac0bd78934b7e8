"""
Select the best of several answers to each prompt with a judge, by pairwise comparisons.

  round-robin  compare all pairs; the score is the mean of P(win) + P(tie) / 2
  anchor       compare each answer with one of them, drawn at random, or with the field --anchor; the same score
  knockout     n - 1 comparisons in a random bracket; the score is the number of rounds survived
Without --method: round-robin for up to 8 different candidates, else knockout. Identical candidates are judged once.
Among equally good candidates one is drawn at random (--seed). Such ties are counted, and so are prompts with cyclic
judgements (a beats b, b beats c, c beats a). Draws do not depend on the order of rows or candidates. A killed run
resumes where it stopped.

A row of CANDIDATES has `prompt` (a text, a list of turns or a chat) and `candidates`, `responses` or `completions`.
A row of the output has id, prompt, best, best_index, scores, method, calls, tied, condorcet_winner, cyclic_triples.
"""

from sft_judge.commands.arguments import add_candidates
from sft_judge.core.errors import InputError

EXAMPLE = "sft-judge best-of-n samples.jsonl --model runs/judge --output best.jsonl"
METHODS = ("round-robin", "anchor", "knockout")


def add_arguments(parser):
    add_candidates(parser, swap=None)
    parser.add_argument("--method", choices=METHODS, help="pairs to compare (by the number of candidates)")
    parser.add_argument(
        "--anchor", metavar="FIELD", help="field with the answer that all candidates are compared with"
    )


def before(args) -> None:
    if args.anchor and args.method not in (None, "anchor"):
        raise InputError(f"--anchor {args.anchor} is for --method anchor, not {args.method}; remove one of them.")


def run(args) -> dict:
    from sft_judge.data.candidates import read_groups, write_rows
    from sft_judge.inference.contests import Entry
    from sft_judge.ranking.candidate_judging import judge_entries

    method = "anchor" if args.anchor else args.method
    entries = [Entry.of(group, method, args.seed) for group in read_groups(args.candidates, args.limit, args.anchor)]
    judge, work = judge_entries(args, args.provenance["fingerprint"], entries)
    rows = [best_row(entry, len(judge.orders)) for entry in entries]
    write_rows(args.output, rows)
    work.clear()
    result = {
        "rows": len(rows),
        "calls": judge.calls,
        "calls_kept": judge.kept,
        "tied": sum(row["tied"] for row in rows),
        "without_condorcet_winner": sum(
            row["method"] == "round-robin" and row["condorcet_winner"] is None for row in rows
        ),
        "with_cycles": sum(bool(row["cyclic_triples"]) for row in rows),
    }
    print(
        f"{result['tied']} of {result['rows']} prompts have equally good candidates, one of which was drawn; "
        f"{result['without_condorcet_winner']} round-robins have no candidate that beats all others, "
        f"{result['with_cycles']} have a cycle"
    )
    print(f"{result['rows']} prompts -> {args.output}")
    return result


def best_row(entry, num_orders: int) -> dict:
    """
    Return the output row of a group of candidates, which are numbered in the order in which they were read.

    Args:
        entry: the group and its finished contest.
        num_orders: calls of the judge per battle.
    """
    group, contest = entry.group, entry.contest
    places = entry.places[: len(group.row["candidates"])]
    standing = contest.standing(sorted(set(places)))
    best, scores, winner = places.index(standing["best"]), contest.scores(), standing["condorcet_winner"]
    return {
        "id": group.id,
        "prompt": group.row["prompt"],
        "best": group.row["candidates"][best],
        "best_index": best,
        "scores": [float(scores[place]) for place in places],
        "method": contest.method,
        "calls": entry.num_battles * num_orders,
        "tied": standing["tied"],
        "condorcet_winner": None if winner is None else places.index(winner),
        "cyclic_triples": standing["cyclic_triples"],
    }
