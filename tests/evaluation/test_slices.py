"""Slices: named by what is in them, marked only where they differ beyond chance, and no row lost."""

import numpy as np
import pytest

from sft_judge.data.battles import battle_table
from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.slices import bucket_labels, slice_columns, slice_figures, slices

pytestmark = pytest.mark.unit
ROWS = 600


def draws_of(columns, rows=ROWS):
    return resample(columns, np.arange(rows), repeats=300)


def test_small_slices_are_put_together_and_no_row_is_lost():
    languages = ["English"] * 60 + ["French"] * 5 + ["Thai"] * 4
    rows = [
        {"id": str(i), "prompt": ["p"], "response_a": ["x" * i], "response_b": ["y"], "verdict": "a", "language": name}
        for i, name in enumerate(languages)
    ]
    found = slices(battle_table(rows))
    assert {name: int(mask.sum()) for name, mask in found["language"].items()} == {"English": 60, "other (2)": 9}
    assert "turns" not in found  # all have one
    assert bucket_labels(np.array([5, 5, 5])) == ["0 to 5"] * 3


def test_a_part_on_which_the_judge_is_worse_is_marked_and_chance_among_many_parts_is_not():
    rng = np.random.default_rng(0)
    hard = np.arange(ROWS) < 100
    losses = rng.exponential(1.0, ROWS) + 0.8 * hard
    masks = {"planted": {"hard": hard, "easy": ~hard}}
    masks |= {f"random {k}": {"x": (x := rng.random(ROWS) < 0.5), "y": ~x} for k in range(20)}
    columns = {"n": np.ones(ROWS), "log_loss": losses} | slice_columns(masks, losses, losses < 1)
    found = slice_figures(draws_of(columns), masks, losses, np.arange(ROWS))
    part = found["planted"]["hard"]
    assert part["differs"] and part["n"] == 100
    assert part["against_rest"]["value"] == pytest.approx(losses[hard].mean() - losses[~hard].mean())
    marked = [name for name, parts in found.items() if parts.get("x", {}).get("differs")]
    assert len(marked) <= 1


@pytest.mark.parametrize("by_prompt", [0.0, 0.8])
def test_small_parts_of_skewed_losses_that_are_chance_are_seldom_marked(by_prompt):
    rng, marked, clusters = np.random.default_rng(0), 0, np.arange(ROWS) // 3
    for _ in range(50):
        losses = rng.exponential(1.0, ROWS) * np.exp(rng.normal(0, by_prompt, ROWS)[clusters])
        prompts = rng.permutation(ROWS // 3) // 8
        masks = {"prompt": {f"{part}": prompts[clusters] == part for part in range(25)}}  # of 24 rows each
        columns = {"n": np.ones(ROWS), "log_loss": losses} | slice_columns(masks, losses, losses < 1)
        found = slice_figures(resample(columns, clusters, repeats=200), masks, losses, clusters)
        marked += any(part["differs"] for part in found["prompt"].values())
    assert marked <= 8  # more than half of them where the spread of the parts' own draws alone counts


def test_bucket_names_say_what_is_in_them():
    values = np.arange(1, 101)
    names = np.array(bucket_labels(values, " %"))
    assert names[0] == "0 to 25 %" and names[-1] == "76 % and more"
    assert [set(values[names == name]) <= set(range(int(name.split()[0]), 101)) for name in set(names)]
