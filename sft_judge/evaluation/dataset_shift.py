"""
Comparison of two sources of battles: a judge trained on each, scored on held-out rows of both.

The two-way table follows the LMSYS Arena write-up, which scores the external set with a judge trained on the
competition's data and the other way round. One rule (RULES) turns the gains into a recommendation. A judge's gain is
the class frequencies' log loss on a set minus the judge's log loss on the same rows.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import set_column
from sft_judge.data.preparing.folds import assign_folds
from sft_judge.data.preparing.prompt_groups import index_prompts
from sft_judge.data.ties import tie_shares, verdicts_needed
from sft_judge.evaluation.align import Aligned
from sft_judge.evaluation.baselines import class_frequencies
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.metrics import figure_intervals, row_columns
from sft_judge.evaluation.reporting.html import Section, Table, render_page
from sft_judge.evaluation.reporting.plots import plot_slice_losses
from sft_judge.evaluation.reporting.tables import number, percent

MIN_SHARE_OF_NATIVE_GAIN = 0.5  # the foreign judge's gain as a share of the native judge's
RULES = {
    "cannot tell": "a judge does not beat the class frequencies of its own set, so nothing follows: give it more "
    "battles, or a recipe that learns from them",
    "mix": "in both directions the foreign judge beats the class frequencies, and by at least half as much as the "
    "native judge: train on both together",
    "stage": "the other set's judge beats the class frequencies of the reference set, but the rule for mixing is not "
    "met: train on the other set first, then on the reference set alone",
    "leave out": "the other set's judge does not beat the class frequencies of the reference set: train without it",
}
BEATS = "A judge beats class frequencies if the 95 % interval of its gain (prompts resampled) lies above zero"


def deal_folds(ref: pa.Table, other: pa.Table, num_folds: int, seed: int) -> tuple[list[pa.Table], str]:
    """
    Assign folds to both sets.

    If both sets have folds, these are kept. Otherwise folds are dealt over both sets together, so that a prompt that
    is in both sets is held out of both.

    Args:
        ref: battles of the reference set.
        other: battles of the other set.
        num_folds: number of folds to deal.
        seed: seed of the assignment.

    Returns:
        Both sets with a `fold` column, and a sentence that says where the folds come from.
    """
    tables = [ref, other]
    if all("fold" in table.column_names for table in tables):
        return tables, "folds as stored"
    fields = [
        set_column(table, "source", pa.array([name] * table.num_rows)).select(["prompt", "verdict", "source"])
        for name, table in zip(("ref", "other"), tables, strict=True)
    ]
    folds = assign_folds(pa.concat_tables(fields), num_folds, seed)
    parts = np.split(folds, [ref.num_rows])
    dealt = [set_column(table, "fold", pa.array(part)) for table, part in zip(tables, parts, strict=True)]
    return dealt, f"{num_folds} folds dealt over both sets together, seed {seed}"


def split_held_out(tables: list[pa.Table]) -> tuple[list[int], list[pa.Table], list[int]]:
    """
    Split off the held-out rows of two sets.

    A held-out row is left out if its prompt, or a near-duplicate, is among the rows that either judge is trained on.

    Returns:
        For each set: the held-out fold, its rows with a verdict, and the number of rows that were left out.
    """
    folds = [min(set(table["fold"].to_pylist()) - {None}) for table in tables]
    both = pa.concat_tables(table.select(["id", "prompt"]) for table in tables)
    sides = np.concatenate([_is_held(table, fold) for table, fold in zip(tables, folds, strict=True)]).astype(int)
    leaking = np.split(index_prompts(both).find_leaks(sides, both["id"]).leaking, [tables[0].num_rows])
    held_rows, left_out = [], []
    for table, fold, leaks in zip(tables, folds, leaking, strict=True):
        mine = _is_held(table, fold) & np.array([verdict is not None for verdict in table["verdict"].to_pylist()])
        held_rows.append(table.filter(pa.array(mine & ~leaks)))
        left_out.append(int((mine & leaks).sum()))
    return folds, held_rows, left_out


def _is_held(table: pa.Table, fold: int) -> np.ndarray:
    return np.array([value == fold for value in table["fold"].to_pylist()], dtype=bool)


def check_comparable(names: list[str], tables: list[pa.Table]) -> None:
    """
    Check that both sets have ties or neither has, because the judges would answer different questions otherwise.

    Args:
        names: names of the two sets, for the message.
        tables: battles of the two sets.

    Raises:
        InputError: one set has ties and the other has none.
    """
    needed = [verdicts_needed(table) for table in tables]
    if min(needed) != max(needed):
        first, second = names if needed[0] == 3 else names[::-1]
        ties = int((tie_shares(tables[names.index(first)]) > 0).sum())
        raise InputError(
            f"{first} has {ties} ties and {second} has none: a judge with three verdicts cannot be compared to a "
            f"judge with two. Drop the ties first: sft-judge prepare {first} --ties drop --output FILE."
        )


def _training_verdicts(table: pa.Table, fold: int) -> np.ndarray:
    verdicts = table.filter(pa.array(~_is_held(table, fold)))["verdict"].to_pylist()
    return np.array([VERDICTS.index(verdict) for verdict in verdicts if verdict is not None], dtype=int)


def num_training_rows(table: pa.Table, fold: int) -> int:
    """
    Count the rows with a verdict outside the held-out fold.

    Args:
        table: battles of one set.
        fold: the held-out fold.
    """
    return len(_training_verdicts(table, fold))


def training_frequencies(table: pa.Table, fold: int, num: int) -> np.ndarray:
    """
    Compute the class frequencies `[K]` of the rows outside the held-out fold.

    Args:
        table: battles of one set.
        fold: the held-out fold.
        num: number of verdicts K.
    """
    return class_frequencies(_training_verdicts(table, fold), num)


def score_judges(aligned: Aligned, frequencies: dict[str, np.ndarray], native: str, foreign: str, seed: int) -> dict:
    """
    Score two judges and two sets' class frequencies on the held-out rows of the set `native`.

    Args:
        aligned: both judges on the held-out rows.
        frequencies: class frequencies `[K]` of each set's training rows, by name.
        native: name of the set that is scored on, and of the judge trained on it.
        foreign: name of the other set and its judge.
        seed: seed of the bootstrap.

    Returns:
        `scores`: log loss and accuracy of each. `gains`: the log loss of the set's own class frequencies minus the
        judge's. `difference`: foreign log loss minus native. `share`: the foreign gain divided by the native gain,
        None unless the native judge beats the class frequencies. All with intervals.
    """
    rows = len(aligned.verdicts)
    probs = {f"judge of {name}": judge.probs for name, judge in aligned.judges.items()}
    probs |= {f"class frequencies of {name}": np.tile(values, (rows, 1)) for name, values in frequencies.items()}
    draws = {
        name: resample(row_columns(values, aligned.verdicts), aligned.clusters, seed=seed)
        for name, values in probs.items()
    }
    losses = {name: sums["log_loss"] / sums["n"] for name, sums in draws.items()}
    of_prompts = next(iter(draws.values())).of_prompts["n"]
    own = losses[f"class frequencies of {native}"]
    gains = {"native": own - losses[f"judge of {native}"], "foreign": own - losses[f"judge of {foreign}"]}
    has_gain = beats_frequencies(interval(gains["native"], of_prompts))  # a share of no gain is meaningless
    return {
        "rows": rows,
        "scores": {name: figure_intervals(sums, ("log_loss", "accuracy")) for name, sums in draws.items()},
        "gains": {name: interval(values, of_prompts) for name, values in gains.items()},
        "difference": interval(gains["native"] - gains["foreign"], of_prompts),
        "share": interval(gains["foreign"] / gains["native"], of_prompts) if has_gain else None,
    }


def beats_frequencies(gain: dict) -> bool:
    """Return True if a judge with this gain beats the class frequencies."""
    return gain["low"] is not None and gain["low"] > 0


def decide(gains: list[dict[str, dict]]) -> str:
    """
    Choose the name of a rule in RULES.

    Args:
        gains: gains of the native and the foreign judge, first on the reference set and then on the other set.
    """
    if not all(beats_frequencies(one["native"]) for one in gains):
        return "cannot tell"
    if all(
        beats_frequencies(one["foreign"])
        and one["foreign"]["value"] >= MIN_SHARE_OF_NATIVE_GAIN * one["native"]["value"]
        for one in gains
    ):
        return "mix"
    return "stage" if beats_frequencies(gains[0]["foreign"]) else "leave out"


def tables_of(result: dict) -> list[Table]:
    """Build the two-way table, the table of gains that the rule reads, and the table of training and test rows."""
    sets = result["sets"]
    judges = list(next(iter(sets.values()))["scores"])
    two_way = [
        [judge, *(text for one in sets.values() for text in _score_cells(one["scores"][judge]))] for judge in judges
    ]
    columns = ["", *(f"{what} on {name}" for name in sets for what in ("log loss", "accuracy"))]
    gains = [
        [
            name,
            *(number(one["gains"][who]) for who in ("native", "foreign")),
            number(one["difference"]),
            percent(one["share"]),
        ]
        for name, one in sets.items()
    ]
    rows = [
        [name, *(f"{one[key]:,}" for key in ("trained_on", "rows", "left_out")), str(one["fold"])]
        for name, one in sets.items()
    ]
    return [
        Table(
            "Each judge on each set", columns, two_way, "held-out rows; in brackets 95 % intervals, prompts resampled"
        ),
        Table(
            "Gains",
            ["on", "native judge", "foreign judge", "foreign minus native log loss", "foreign share of the gain"],
            gains,
            "how far the log loss is below that of the set's own class frequencies, in nats, on the same rows",
        ),
        Table(
            "Sets",
            ["", "trained on", "scored on", "left out", "held-out fold"],
            rows,
            f"{result['folds']}; left out: held-out rows whose prompt, or a near-duplicate, a judge was trained on",
        ),
    ]


def _score_cells(scores: dict) -> list[str]:
    return [number(scores["log_loss"]), percent(scores["accuracy"])]


def verdict_line(result: dict) -> str:
    """Return the verdict and its rule in one line."""
    return f"verdict: {result['verdict']} ({result['rule']}). {BEATS}."


def render_shift(result: dict) -> str:
    """Render shift.html."""
    two_way, gains, sets_table = tables_of(result)
    first = next(iter(result["sets"].values()))["scores"]
    by_judge = {
        judge: {"slices": {"set": {name: one["scores"][judge] for name, one in result["sets"].items()}}}
        for judge in first
    }
    sections = [
        Section("Each judge on each set", [plot_slice_losses("set", by_judge)], [two_way]),
        Section("Gains that the rule reads", tables=[gains]),
        Section("Training and test rows", tables=[sets_table]),
        Section("Rules", tables=[Table("Rules", [], [list(rule) for rule in RULES.items()], BEATS, prose=True)]),
    ]
    heading = " and ".join(result["sets"])
    notes = [verdict_line(result), f"Recipe: {result['recipe']}."]
    return render_page(f"Shift: {heading}", f"{heading}: {result['verdict']}", notes, sections)
