"""What a recipe says of the rows: how battles are shown, which ones, how often, and from which split of a data set."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from helpers.training_runs import make_prompt
from sft_judge.data.battles import read_battles, set_column, write_battles
from sft_judge.modeling.judge_spec import Budget, read_spec
from sft_judge.modeling.loading import load_config, load_tokenizer
from sft_judge.training import preparation
from sft_judge.training import train as training
from sft_judge.training.preparation import read_data, read_rows
from sft_judge.training.recipes import read_recipe
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine
KEYS = ("id", "prompt", "response_a", "response_b", "verdict")
SHOWN = {"prompt_template": "pair", "verdict_words": ["X", "Y", "Z"], "show_language": "true", "prompt_budget": 24}
SHOWN |= {"response_budget": 30, "total_budget": 200}


def ids_by_hand(bases, battles, orders=("ab",), changes=()) -> list:
    """The token ids of battles as SHOWN has them but for `changes`, each order's verdict left off."""
    said = SHOWN | dict(changes)
    budget = (said["prompt_budget"], said["response_budget"], said["total_budget"])
    options = {"language": said["show_language"] == "true", "detect": True}
    prompt = make_prompt(bases, said["verdict_words"], said["prompt_template"], budget, **options)
    return prompt.encode(battles.to_pylist(), orders)


@engine
def test_a_recipe_says_how_battles_are_shown_and_so_does_its_judge(train, bases, synthetic_table, monkeypatch):
    kept, plain = [], training.read_data
    monkeypatch.setattr(training, "read_data", lambda *args: kept.append(plain(*args)) or kept[-1])
    spec = read_spec(train(**SHOWN, swap="none", max_steps=1))
    expected = ids_by_hand(bases, synthetic_table)
    assert [[ids[:-1] for ids in shown] for shown in kept[0].train_set["input_ids"]] == expected
    assert spec.verdict_words == ["X", "Y", "Z"] and spec.language and spec.budget == Budget(24, 30, 200)
    assert "<Response_" in spec.template
    usual = {"prompt_template": "compact", "verdict_words": ["A", "B", "tie"], "show_language": "false"}
    usual |= {"prompt_budget": Budget.prompt, "response_budget": Budget.response, "total_budget": Budget.total}
    for change in usual.items():
        assert ids_by_hand(bases, synthetic_table, changes=[change]) != expected, change


@engine
def test_a_recipe_names_the_tokens_and_the_chat_template_of_its_judge(train, bases, tmp_path, monkeypatch):
    base = load_tokenizer(str(bases["qwen2"]))
    tokens, template = {"eos_token": base.pad_token, "pad_token": base.eos_token}, f"Here:{base.chat_template}"
    (tmp_path / "chat.jinja").write_text(template)
    paddings, compute_loss = [], JudgeTrainer.compute_loss

    def watched(self, model, inputs, *args, **more):
        paddings.extend(inputs["input_ids"][inputs["attention_mask"] == 0].tolist())
        return compute_loss(self, model, inputs, *args, **more)

    kept, plain = [], training.read_data
    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched)
    monkeypatch.setattr(training, "read_data", lambda *args: kept.append(plain(*args)) or kept[-1])
    folder = train(chat_template_path=tmp_path / "chat.jinja", max_steps=1, **tokens)
    saved = load_tokenizer(str(folder))
    assert (saved.eos_token, saved.pad_token, saved.chat_template) == (*tokens.values(), template)
    assert set(paddings) == {base.eos_token_id} != {base.pad_token_id}
    assert all(base.decode(ids).startswith("Here:") for shown in kept[0].train_set["input_ids"] for ids in shown)


@pytest.fixture
def recipe(command, bases):
    """A function that gives the settings of a recipe, and what a tokenizer and a model's size are needed for."""
    tokenizer = load_tokenizer(str(bases["qwen2"]))
    vocabulary = load_config(str(bases["qwen2"])).vocab_size

    def read(**changes):
        words = command(**changes)
        return read_recipe(words[2], words[3:]).configs()[0], tokenizer, vocabulary

    return read


@unit
@pytest.mark.parametrize("swap", ["both", "random", "none"])
def test_a_recipe_says_in_which_orders_battles_are_shown(swap, recipe, bases, synthetic_table):
    rows = read_data(*recipe(**SHOWN, swap=swap)).train_set["input_ids"]
    both = ids_by_hand(bases, synthetic_table, ("ab", "ba"))
    seen = [[each.index(ids[:-1]) for ids in shown] for shown, each in zip(rows, both, strict=True)]
    allowed = {"both": [[0, 1]], "random": [[0], [1]], "none": [[0]]}[swap]
    assert all(orders in allowed for orders in seen)
    assert sum(len(orders) == 1 and orders[0] for orders in seen) in (range(15, 46) if swap == "random" else [0])


@unit
def test_a_recipe_says_which_battles_are_trained_on_and_how_often(recipe, synthetic_file, tmp_path):
    table = read_battles(synthetic_file)
    names = ["many" if place % 4 else "few" for place in range(table.num_rows)]
    write_battles(tmp_path / "b.parquet", set_column(table, "source", pa.array(names)))
    table = read_battles(tmp_path / "b.parquet")
    ids, folds = np.array(table["id"].to_pylist()), np.array(table["fold"].to_pylist())

    def seen(**changes):
        train, held = read_rows(recipe(battles=tmp_path / "b.parquet", **changes)[0])
        return train["id"].to_pylist(), held and held["id"].to_pylist()

    assert seen() == (ids.tolist(), None)
    assert seen(limit=7) == (ids[:7].tolist(), None)
    assert seen(fold=1) == (ids[folds != 1].tolist(), ids[folds == 1].tolist())
    assert seen(fold=1, holdout_fold=2) == (ids[folds == 0].tolist(), ids[folds == 1].tolist())
    assert seen(holdout_fold=2) == (ids[folds != 2].tolist(), None)
    mixed = {seed: seen(mix='{"many": 0.2, "few": 2}', seed=seed)[0] for seed in (1, 2)}
    for of_seed in mixed.values():
        times = np.array([of_seed.count(name) for name in ids])
        few = np.array(names) == "few"
        assert (times[few] == 2).all() and times[~few].sum() == 9 and times[~few].max() == 1
    assert mixed[1] != mixed[2]


@unit
def test_a_recipe_names_the_configuration_and_the_splits_of_a_data_set(recipe, synthetic_rows, tmp_path):
    """A folder with a card: two configurations, each of other splits than those of the default."""
    places = {("one", "learn"): range(8), ("one", "look"): range(8, 12), ("two", "learn"): range(12, 22)}
    places |= {("two", "look"): range(22, 27), ("two", "train"): range(27, 30), ("two", "test"): range(30, 33)}
    card = "---\nconfigs:\n"
    for name in ("one", "two"):
        card += f"- config_name: {name}\n  data_files:\n"
        for config, split in places:
            if config == name:
                card += f"  - split: {split}\n    path: {config}-{split}.parquet\n"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text(card + "---\n")
    for (config, split), rows in places.items():
        chosen = [{key: synthetic_rows[place][key] for key in KEYS} for place in rows]
        Dataset.from_list(chosen).to_parquet(tmp_path / "set" / f"{config}-{split}.parquet")
    settings = {"battles": None, "dataset_name": tmp_path / "set", "dataset_config": "two"}
    settings |= {"eval_strategy": "steps", "eval_steps": 1}
    named = {"dataset_train_split": "learn", "dataset_test_split": "look"}
    for more, train_places, held_places in (
        (named, range(12, 22), range(22, 27)),
        (named | {"dataset_config": "one"}, range(8), range(8, 12)),
        (named | {"limit": 3}, range(12, 15), range(22, 27)),
        ({}, range(27, 30), range(30, 33)),
    ):
        train, held = read_rows(recipe(**settings | more)[0])
        for table, expected in ((train, train_places), (held, held_places)):
            assert table["id"].to_pylist() == [synthetic_rows[place]["id"] for place in expected]


@unit
def test_a_recipe_names_the_revision_of_a_data_set(recipe, synthetic_rows, monkeypatch):
    asked = []

    def load_named(*words):
        asked.append(words)
        return Dataset.from_list([{key: synthetic_rows[len(asked)][key] for key in KEYS}])

    monkeypatch.setattr(preparation, "load_named", load_named)
    named = {"dataset_name": "me/set", "dataset_revision": "v1", "eval_strategy": "steps", "eval_steps": 1}
    read_rows(recipe(battles=None, **named)[0])
    assert asked == [("me/set", None, "train", "v1"), ("me/set", None, "test", "v1")]
