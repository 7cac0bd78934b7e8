"""
Headline of a report: who is best, by how much, and whether that is beyond chance, in a few sentences.

A difference is called beyond chance if its 95 % interval does not contain zero; between judges, if the standings place
one before the other, which corrects for the number of pairs.
"""

import numpy as np

from sft_judge.evaluation.bootstrap import Draws, interval
from sft_judge.evaluation.metrics import figures

FEW_TIES_FOUND = 0.05  # share of people's ties below which a judge is said to miss them
TIES_THAT_MATTER = 0.05  # share of people's verdicts above which missing them is worth a sentence


def compare_with_baselines(draws: dict[str, Draws], main: str, baselines: list[str], measure: str) -> list[dict]:
    """
    Compute the paired difference of a judge from each baseline.

    Args:
        draws: resampled columns of judges and baselines, by name.
        main: the judge.
        baselines: names of the baselines.
        measure: `log_loss` or `accuracy`.

    Returns:
        `{"baseline", "measure", "difference": {"value", "low", "high"}}` of each baseline.
    """
    rows, own = draws[main].of_prompts["n"], figures(draws[main])[measure]
    return [
        {"baseline": name, "measure": measure, "difference": interval(own - figures(draws[name])[measure], rows)}
        for name in baselines
    ]


def headline(metrics: dict, judges: dict[str, dict]) -> list[str]:
    """
    Say in sentences how good the main judge is, which judge is best, and what a judge misses.

    Args:
        metrics: contents of metrics.json.
        judges: figures of each judge, by name.
    """
    sentences = [_against_baselines(metrics)]
    if "standings" in metrics:
        sentences.insert(0, _best(metrics))
    sentences.append(_ties(judges))
    return [sentence for sentence in sentences if sentence]


def _best(metrics: dict) -> str:
    """Name the judges of the first place, and how far the main judge is behind if it is not one of them."""
    standings, main = metrics["standings"], metrics["main"]
    first = [one["name"] for one in standings if one["first"] == 1]
    others = [one["name"] for one in standings if one["first"] > 1]
    if len(first) == 1:
        gap = _gap(metrics, first[0], others[0])
        text = f"{first[0]} is the best of {len(standings)} judges: {gap} than {others[0]}, beyond chance."
    elif others:
        are = "is" if len(others) == 1 else "are each"
        text = f"These battles cannot tell {_listed(first)} apart. "
        text += f"{_listed(others)} {are} worse than at least one other judge, beyond chance."
    else:
        text = f"These battles cannot tell {_listed(first)} apart."
    if main in others:
        text += f" {main} is worse than {first[0]}: {_gap(metrics, main, first[0])}."
    return text


def _gap(metrics: dict, a: str, b: str) -> str:
    """Describe how far judge a is from judge b, as in `a log loss 0.0123 [0.0010, 0.0236] lower`."""
    measure = metrics["standings_by"]
    for pair in metrics["pairs"]:
        if {pair["a"], pair["b"]} == {a, b}:
            return _difference(pair[f"delta_{measure}"], measure, turned=pair["a"] == b)
    raise AssertionError(f"no pair of {a} and {b}")


def _against_baselines(metrics: dict) -> str:
    """Describe the main judge beside the baselines."""
    parts = []
    for one in metrics["against_baselines"]:
        if one["difference"]["value"] is None:
            continue
        low, high = one["difference"]["low"], one["difference"]["high"]
        sure = "which is not tested" if low is None else "which may be chance" if low <= 0 <= high else "beyond chance"
        parts.append(f"{_difference(one['difference'], one['measure'])} than {_named(one['baseline'])}, {sure}")
    return f"{metrics['main']} has {'; '.join(parts)}." if parts else ""


def _difference(figure: dict, measure: str, turned: bool = False) -> str:
    """Describe a difference, as in `a log loss 0.0123 [0.0010, 0.0236] lower`, or in percentage points of accuracy."""
    scale, digits, unit = (1, 4, "") if measure == "log_loss" else (100, 1, " points")
    sign = -1 if turned else 1
    value = sign * scale * figure["value"]
    spread = ""
    if figure["low"] is not None:
        ends = sorted((1 if value > 0 else -1) * sign * scale * np.array([figure["low"], figure["high"]]))
        spread = f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    kind = "a log loss" if measure == "log_loss" else "an accuracy"
    return f"{kind} {abs(value):.{digits}f}{spread}{unit} {'higher' if value > 0 else 'lower'}"


def _ties(judges: dict[str, dict]) -> str:
    """Name the judges that find hardly any of people's ties, if there are enough of them."""
    shares = {name: judge["verdicts"].get("tie", 0) / judge["n"] for name, judge in judges.items()}
    found = {name: judge["tie_recall"]["value"] for name, judge in judges.items() if shares[name] >= TIES_THAT_MATTER}
    few = {name: share for name, share in found.items() if share is not None and share < FEW_TIES_FOUND}
    if not few:
        return ""
    find = "finds" if len(few) == 1 else "find at most"
    ties = max(shares[name] for name in few)
    share = f"{100 * max(few.values()):.1f} %"
    return f"People call {100 * ties:.0f} % of the battles a tie; {_listed(list(few))} {find} {share} of these."


def _named(baseline: str) -> str:
    return baseline if baseline.startswith("the ") else f"the {baseline}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
