"""Slices, styles, families and comparisons: found where planted, not seen where there is nothing."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

from sft_judge.core.verdicts import swap
from sft_judge.data.battles import battle_table
from sft_judge.evaluation.baselines import baseline_probs, longer_frequencies, longer_response
from sft_judge.evaluation.bias import family_of, lead, own_columns, own_family, style_columns, style_effects
from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.metrics import row_columns
from sft_judge.evaluation.pairs import compare, mcnemar, standings
from sft_judge.evaluation.slices import bucket_labels, slice_columns, slice_figures

pytestmark = pytest.mark.unit
ROWS = 600


def draws_of(columns, rows=ROWS):
    return resample(columns, np.arange(rows), repeats=300)


def table(responses_a, responses_b):
    texts = zip(responses_a, responses_b, strict=True)
    return battle_table(
        [
            {"id": str(i), "prompt": ["p"], "response_a": [a] if isinstance(a, str) else a, "response_b": [b]}
            for i, (a, b) in enumerate(texts)
        ]
    )


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


def test_the_longer_answers_frequencies_do_not_know_which_side_it_is_on():
    battles = table(["aaaa", "a", "aa", "aaaa"], ["b", "bbb", "bb", "b"])
    longer = longer_response(battles)
    assert longer.tolist() == [0, 1, -1, 0]
    of_longer = longer_frequencies(np.array([0, 1, 0, 2]), longer, 3)
    assert of_longer == pytest.approx(np.array([3, 1, 2]) / 6)  # longer twice, shorter never, neither once; each + 1
    probs = baseline_probs(np.array([0.4, 0.4, 0.2]), of_longer, longer)["the longer answer"]
    np.testing.assert_allclose(probs, [of_longer, swap(of_longer), [0.4, 0.4, 0.2], of_longer])


def test_mcnemar_is_the_binomial_test_on_rows_that_one_alone_has_right():
    a, b = np.array([1, 1, 1, 0, 0, 1], dtype=bool), np.array([0, 0, 1, 0, 1, 0], dtype=bool)
    assert mcnemar(a, b) == {"only_a": 3, "only_b": 1, "p": pytest.approx(10 / 16)}
    assert mcnemar(a, a)["p"] == 1


def test_judges_share_a_place_where_no_difference_is_seen_and_only_there():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([1, 1, 1], 2000)
    verdicts = np.array([rng.choice(3, p=row) for row in truth])
    flat = np.full_like(truth, 1 / 3)
    noisy = truth * np.exp(rng.normal(0, 0.02, truth.shape))
    judges = {"flat": flat, "true": truth, "nearly": noisy / noisy.sum(axis=1, keepdims=True)}
    draws = {name: resample(row_columns(probs, verdicts), np.arange(2000)) for name, probs in judges.items()}
    pairs = compare(draws, {name: probs.argmax(axis=1) == verdicts for name, probs in judges.items()})
    found = {pair["a"] + " " + pair["b"]: pair for pair in pairs}
    assert found["flat true"]["adjusted_p"] < 0.001 < 0.05 < found["true nearly"]["adjusted_p"]
    assert found["flat true"]["rows_needed"]["log_loss"] < 200 < found["true nearly"]["rows_needed"]["log_loss"]
    losses = {name: {"log_loss": {"value": draws[name]["log_loss"][0] / 2000}} for name in judges}
    placed = {one["name"]: (one["first"], one["last"]) for one in standings(losses, pairs)}
    assert placed == {"true": (1, 2), "nearly": (1, 2), "flat": (3, 3)}
    assert lead(np.array([[0.6, 0.3, 0.1]]))[0] == pytest.approx(0.3)
