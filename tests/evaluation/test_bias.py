"""Style and families: an effect or a lead is found where there is one, and not seen where there is none."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

from sft_judge.data.battles import battle_table
from sft_judge.evaluation.bias import family_of, own_columns, own_family, style_columns, style_effects
from sft_judge.evaluation.bootstrap import resample

pytestmark = pytest.mark.unit
ROWS = 600


def draws_of(columns, rows=ROWS):
    return resample(columns, np.arange(rows), repeats=300)


def test_style_effects_are_those_of_least_squares_and_a_planted_bias_beyond_people_is_found():
    rng = np.random.default_rng(0)
    features = {"length": rng.normal(size=ROWS), "bold": rng.normal(size=ROWS)}
    features["bold"] += 0.5 * features["length"]  # written together, so that one alone would be blamed for both
    people = np.clip(np.round(0.4 * features["length"] + rng.normal(size=ROWS)), -1, 1)
    judge = 0.5 * people + 0.2 * features["length"] + 0.1 * rng.normal(size=ROWS)
    found = style_effects(draws_of(style_columns(features, people, judge)), features)
    x = np.stack(list(features.values()), axis=1)
    for who, y in (("people", people), ("judge", judge)):
        wanted = LinearRegression().fit(x, y).coef_
        assert [found[name][who]["value"] for name in features] == pytest.approx(wanted)
    beyond = LinearRegression().fit(x, judge - people).coef_
    assert [found[name]["difference"]["value"] for name in features] == pytest.approx(beyond)
    assert found["bold"]["difference"]["low"] < 0 < found["bold"]["difference"]["high"]


def test_a_judge_that_is_swayed_as_people_are_has_no_difference_from_them():
    rng = np.random.default_rng(1)
    length = rng.normal(size=6000)
    truth = norm.cdf(0.5 * length)
    people = np.where(rng.random(6000) < truth, 1.0, -1.0)
    columns = style_columns({"length": length}, people, 2 * truth - 1)
    effect = style_effects(resample(columns, np.arange(6000)), ["length"])["length"]
    assert effect["people"]["low"] > 0.2 and effect["difference"]["low"] < 0 < effect["difference"]["high"]


def test_styles_that_always_go_together_or_have_too_few_rows_get_no_effect():
    rng = np.random.default_rng(2)
    features = {"lists": np.where(rng.random(ROWS) < 0.5, 1.0, -1.0), "length": rng.normal(size=ROWS)}
    features["bold"] = 2 * features["lists"]
    people, judge = rng.normal(size=(2, ROWS))
    found = style_effects(draws_of(style_columns(features, people, judge)), features)
    assert all(one["judge"] == {"value": None, "low": None, "high": None} for one in found.values())
    always = {"length": np.ones(ROWS)}  # a is always the longer one: its place may be the reason as well
    assert style_effects(draws_of(style_columns(always, people, judge)), always)["length"]["people"]["value"] is None
    few = {name: values[:25] for name, values in features.items()}
    assert style_columns(few, people[:25], judge[:25]) == {}


def test_a_style_that_few_prompts_show_gets_no_effect():
    rng = np.random.default_rng(3)
    people, judge = rng.normal(size=(2, ROWS))
    for shown, known in ((19, False), (20, True)):
        features = {"lists": np.where(np.arange(ROWS) < shown, rng.normal(size=ROWS), 0.0)}
        effect = style_effects(draws_of(style_columns(features, people, judge)), features)["lists"]["people"]
        assert (effect["value"] is not None) == known == (effect["low"] is not None)


def test_the_lead_of_the_own_family_is_measured_where_one_response_alone_is_of_it():
    models = [("Qwen2.5-7B", "gpt-4"), ("llama", "qwen-max"), ("qwen", "qwen2"), ("gpt-4", "llama")]
    rows = [
        {"id": str(i), "prompt": ["p"], "response_a": ["x"], "response_b": ["y"], "model_a": a, "model_b": b}
        for i, (a, b) in enumerate(models)
    ]
    probs = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [0.9, 0.1, 0.0]])
    people = np.array([1.0, -1.0, 1.0, 1.0])
    found = own_family(draws_of(own_columns(battle_table(rows), "qwen", probs, people), 4), "qwen")
    assert found["n"] == 2
    assert found["judge"]["value"] == pytest.approx((0.5 - 0.2) / 2) and found["people"]["value"] == 1
    assert own_columns(battle_table(rows), "gemma", probs, people) == {}
    rows[0]["model_a"] = "chatgpt-4o-latest"
    columns = own_columns(battle_table(rows), "gpt", probs, people)["own"]
    assert columns[:, 0].tolist() == [0, 0, 0, 1]  # both of it, neither, neither, one


def test_the_family_of_a_judge_is_read_from_its_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    assert family_of(str(tmp_path)) == "qwen" and family_of(str(tmp_path / "no")) is None and family_of(None) is None
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "google/Gemma-2-9b-it"}')
    assert family_of(str(tmp_path)) == "gemma"


@pytest.mark.parametrize(
    ("said", "family"),
    [("gpt_oss", "gpt"), ("gpt2", None), ("gpt_neox", None), ("phi3", "phi"), ("/runs/llama/dolphin", None)],
)
def test_a_name_that_only_sounds_like_a_family_is_none(tmp_path, said, family):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{said}"}}')
    assert family_of(str(tmp_path)) == family
