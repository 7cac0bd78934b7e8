"""The trainer's rows on disk: made once, and never those of other content."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.training_runs import make_prompt
from sft_judge.core.errors import InputError
from sft_judge.core.manifest import source_hash
from sft_judge.data.battles import battle_table
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.dataset import verdict_dataset

unit, engine = pytest.mark.unit, pytest.mark.engine


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of rows, and a list that grows whenever battles are tokenised."""
    tokenised, fit = [], JudgePrompt.fit
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "rows")
    monkeypatch.setattr(JudgePrompt, "fit", lambda self, rows: tokenised.append(len(rows)) or fit(self, rows))
    return tokenised


def drawn_teacher(table, seed=0) -> dict:
    rng = np.random.default_rng(seed)
    return {(name, order): rng.dirichlet(np.ones(3), 2) for name in table["id"].to_pylist() for order in ("ab", "ba")}


@unit
@pytest.mark.parametrize("policy", ["both", "random", "none"])
@pytest.mark.parametrize("taught", [False, True])
def test_cached_rows_are_the_uncached_ones_and_are_made_once(policy, taught, cache, bases, synthetic_table):
    teacher = drawn_teacher(synthetic_table) if taught else None
    plain = verdict_dataset(synthetic_table, make_prompt(bases), policy, 5, teacher)
    first = verdict_dataset(synthetic_table, make_prompt(bases), policy, 5, teacher, cached=True)
    made = len(cache)
    again = verdict_dataset(synthetic_table, make_prompt(bases), policy, 5, teacher, cached=True)
    assert len(cache) == made == 2
    for dataset, counts in (first, again):
        assert counts == plain[1] and dataset.to_list() == plain[0].to_list()
        assert dataset.features.arrow_schema.equals(plain[0].features.arrow_schema)


@unit
def test_other_content_does_not_hit_the_cache(cache, bases, synthetic_table):
    teacher = drawn_teacher(synthetic_table)
    rows = synthetic_table.to_pylist()
    for field in ("prompt", "response_b"):
        rows[7] = {**rows[7], field: [*rows[7][field][:-1], rows[7][field][-1] + "!"]}
    other = [{**rows[0], "verdict": "a" if rows[0]["verdict"] != "a" else "b"}, *synthetic_table.to_pylist()[1:]]
    closed = make_prompt(bases)
    closed.tokenizer.chat_template = closed.tokenizer.chat_template.replace("assistant\\n", "assistant\\n\\n")
    variants = [
        (synthetic_table, make_prompt(bases), "both", 0, None),
        (synthetic_table, make_prompt(bases), "random", 0, None),
        (synthetic_table, make_prompt(bases), "random", 1, None),
        (synthetic_table, make_prompt(bases), "both", 0, teacher),
        (synthetic_table, make_prompt(bases), "both", 0, drawn_teacher(synthetic_table, 1)),
        (synthetic_table, make_prompt(bases, template="rounds"), "both", 0, None),
        (synthetic_table, make_prompt(bases, budget=(200, 200, 399)), "both", 0, None),
        (synthetic_table, make_prompt(bases, words=("B", "A", "tie")), "both", 0, None),
        (synthetic_table, make_prompt(bases, language=True), "both", 0, None),
        (synthetic_table, make_prompt(bases, family="gemma2"), "both", 0, None),
        (synthetic_table, closed, "both", 0, None),
        (synthetic_table.slice(0, 59), make_prompt(bases), "both", 0, None),
        (synthetic_table.take(list(range(59, -1, -1))), make_prompt(bases), "both", 0, None),
        (battle_table(rows), make_prompt(bases), "both", 0, None),
        (battle_table(other), make_prompt(bases), "both", 0, None),
    ]
    for place, variant in enumerate(variants):
        verdict_dataset(*variant, cached=True)
        assert len(cache) == place + 1, f"variant {place} hit the rows of another"
    for variant in variants:
        verdict_dataset(*variant, cached=True)
    assert len(cache) == len(variants)


@unit
@pytest.mark.parametrize(
    "file",
    ["core/verdicts.py", "core/swap_orders.py", "data/row_order.py", "prompts/prompt.py", "training/dataset.py"],
)
def test_rows_of_older_code_are_not_used(file, cache, bases, synthetic_table, monkeypatch):
    """A module of our own that rows are made by, at any depth."""
    monkeypatch.setattr("sft_judge.training.dataset.source_hash", source_hash.__wrapped__)
    verdict_dataset(synthetic_table, make_prompt(bases), "both", 0, cached=True)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"\n" * str(self).endswith(f"sft_judge/{file}"))
    verdict_dataset(synthetic_table, make_prompt(bases), "both", 0, cached=True)
    assert len(cache) == 2


@unit
def test_columns_that_rows_are_not_made_of_do_not_matter_to_the_cache(cache, bases, synthetic_table):
    from sft_judge.data.battles import set_column

    verdict_dataset(synthetic_table, make_prompt(bases), "both", 0, cached=True)
    models = pa.array([f"model {place}" for place in range(60)])
    verdict_dataset(set_column(synthetic_table, "model_a", models), make_prompt(bases), "both", 0, cached=True)
    assert len(cache) == 1


@unit
def test_bad_input_comes_through_the_cache_as_it_is_and_leaves_nothing_there(cache, bases, synthetic_table, tmp_path):
    with pytest.raises(InputError, match="Raise total_budget"):
        verdict_dataset(synthetic_table, make_prompt(bases, budget=(20, 20, 20)), "both", 0, cached=True)
    assert not list((tmp_path / "rows").rglob("*.arrow"))
