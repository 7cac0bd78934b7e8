"""
The best of several answers to each prompt, by a judge that compares two at a time.

  round-robin  everyone meets everyone; the score is the mean of the probability to win plus half of that of a tie
  anchor       all meet one answer, drawn by lot or that of the field --anchor; the score is the same against it
  knockout     places drawn by lot, the better one goes on; n - 1 battles; the score is the rounds survived
Without --method: round-robin up to 8 different candidates, else knockout. Identical candidates are judged once. Of
equally good ones one is drawn by lot (--seed), which is counted; so are prompts whose judgements go round in a circle.
Lots do not depend on the order of rows or candidates. A killed run goes on where it stopped.

A row of CANDIDATES has `prompt` (a text, a list of turns or a chat) and `candidates`, `responses` or `completions`;
a row of the output has id, prompt, best, best_index, scores, method, calls, tied, condorcet_winner, cyclic_triples.
"""

from sft_judge.commands.arguments import add_candidates
from sft_judge.core.errors import InputError

EXAMPLE = "sft-judge best-of-n samples.jsonl --model runs/judge --output best.jsonl"
METHODS = ("round-robin", "anchor", "knockout")


def add_arguments(parser):
    add_candidates(parser, swap=None)
    parser.add_argument("--method", choices=METHODS, help="default: by the number of candidates")
    parser.add_argument("--anchor", metavar="FIELD", help="the field with the answer that all are compared with")


def before(args) -> None:
    if args.anchor and args.method not in (None, "anchor"):
        raise InputError(f"--anchor {args.anchor} is for --method anchor, not {args.method}; leave one of them out.")


def run(args) -> dict:
    from sft_judge.data.candidates import read_groups, write_rows
    from sft_judge.ranking.candidate_judging import Entry, judge_entries

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
        f"{result['tied']} of {result['rows']} best ones tied, one drawn by lot; {result['without_condorcet_winner']} "
        f"round robins without a candidate that beats all others, {result['with_cycles']} with a circle"
    )
    print(f"{result['rows']} prompts -> {args.output}")
    return result


def best_row(entry, num_orders: int) -> dict:
    """A group's row of the output, its candidates numbered as they were read."""
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
