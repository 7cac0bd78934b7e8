"""Synthetic battles: the truth is what verdicts are drawn from, and the text says what the truth rests on."""

import numpy as np
import pytest
from scipy.stats import chisquare

from sft_judge.data.preparing.prompt_groups import normal_prompt
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import (
    AGAIN,
    COURTESY,
    PRESETS,
    RUDENESS,
    SPLITS,
    SyntheticSettings,
    davidson,
    fit_preference_model,
    preset_settings,
)
from sft_judge.data.synthetic.vocabulary import INJECTIONS, LANGUAGES

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=PRESETS)
def synthetic(request):
    return generate_split(preset_settings(request.param, rows=20_000, seed=3), "train")


def test_verdicts_are_drawn_from_the_truth(synthetic):
    """Within ten bands of p_a, the verdicts' counts are those the probabilities promise (chi-square, p > 1e-4)."""
    bands = np.argsort(np.argsort(synthetic.probs[:, 0])) * 10 // len(synthetic.probs)
    drawn = np.eye(3)[synthetic.verdicts]
    seen = np.array([drawn[bands == band].sum(axis=0) for band in range(10)])
    promised = np.array([synthetic.probs[bands == band].sum(axis=0) for band in range(10)])
    assert chisquare(seen.ravel(), promised.ravel(), ddof=9).pvalue > 1e-4


def test_the_truth_pays_its_own_entropy(synthetic):
    """The realised log loss of the truth differs from the mean entropy by sampling noise alone (4 sigma)."""
    logs = np.log(synthetic.probs)
    entropy = -(synthetic.probs * logs).sum(axis=1)
    paid = -logs[np.arange(len(logs)), synthetic.verdicts]
    variance = (synthetic.probs * (logs + entropy[:, None]) ** 2).sum()
    assert abs(paid.sum() - entropy.sum()) < 4 * np.sqrt(variance)


def test_no_other_prediction_beats_the_truth(synthetic):
    drawn = np.arange(len(synthetic.verdicts)), synthetic.verdicts
    loss = -np.log(synthetic.probs[drawn]).mean()
    mean = synthetic.probs.mean(axis=0)
    assert loss < -np.log(mean[synthetic.verdicts]).mean()
    for temperature in (0.8, 1.25):
        other = synthetic.probs**temperature
        assert loss < -np.log((other / other.sum(axis=1, keepdims=True))[drawn]).mean()


def test_davidson_ties_are_nu_times_the_geometric_mean():
    """p_tie = nu sqrt(p_a p_b) and p_a / p_b = e^(u_a - u_b), the model's two definitions, hold for far utilities."""
    utilities = np.array([[0.0, 0.0], [1.5, -0.5], [-3.0, 2.0], [40.0, -35.0]])
    probs = davidson(utilities, nu=0.7)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(probs[:, 2], 0.7 * np.sqrt(probs[:, 0] * probs[:, 1]), rtol=1e-9)
    np.testing.assert_allclose(np.log(probs[:, 0] / probs[:, 1]), utilities[:, 0] - utilities[:, 1], rtol=1e-9)


def test_two_verdicts_are_bradley_terry():
    utilities = np.array([[0.3, -0.4]])
    assert davidson(utilities, nu=0.0)[0] == pytest.approx([1 / (1 + np.exp(-0.7)), 1 / (1 + np.exp(0.7)), 0])
    synthetic = generate_split(SyntheticSettings(rows=500, verdicts=2, label_noise=0.3), "train")
    assert (synthetic.probs[:, 2] == 0).all() and (synthetic.verdicts < 2).all()


def test_scale_and_tie_rate_are_what_the_settings_say(synthetic):
    settings = preset_settings("easy")
    law = fit_preference_model(settings, "train")
    synthetic = generate_split(SyntheticSettings(rows=20_000), "train")
    utilities = synthetic.draw.qualities @ law.weights
    assert np.std(utilities[:, 0] - utilities[:, 1]) == pytest.approx(settings.scale, rel=0.03)
    assert synthetic.probs[:, 2].mean() == pytest.approx(settings.tie_rate, abs=0.005)


def test_the_law_does_not_depend_on_seed_or_rows():
    one, other = (
        fit_preference_model(SyntheticSettings(seed=1), "train"),
        fit_preference_model(SyntheticSettings(seed=2, rows=9), "train"),
    )
    assert one.nu == other.nu and (one.weights == other.weights).all()


def test_the_shifted_source_has_other_tastes():
    weights = {split: fit_preference_model(SyntheticSettings(), split).weights for split in SPLITS}
    assert (weights["train"] == weights["test"]).all()
    assert np.corrcoef(weights["train"][:4], weights["shifted"][:4])[0, 1] < 0.95


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_quality_can_be_read_in_the_text(language):
    synthetic = generate_split(SyntheticSettings(rows=400, languages=(language,)), "train")
    words = LANGUAGES[language]
    lists = words.word_lists
    for row, counts, length in zip(synthetic.rows, synthetic.draw.counts, synthetic.draw.words, strict=True):
        for side, name in enumerate(("response_a", "response_b")):
            found = [word for turn in row[name] for word in _split(turn[:-1], words.between)]
            for column, wordlist in ((COURTESY, lists[0]), (RUDENESS, lists[1]), (AGAIN, lists[2])):
                assert sum(word in wordlist for word in found) == counts[side, column]
            assert len(found) == length[side]
            assert len(row[name]) == len(row["prompt"])


def _split(text: str, between: str) -> list[str]:
    """Words of a turn; every Chinese word in the lists has two characters."""
    return text.split(between) if between else [text[i : i + 2] for i in range(0, len(text), 2)]


def test_being_on_topic_and_in_the_language_can_be_read_too():
    synthetic = generate_split(preset_settings("full", rows=500, hostile=0.0), "train")
    assert 0.02 < 1 - synthetic.draw.qualities[..., 4:].mean() < 0.5
    for row, draw_language, topic in zip(
        synthetic.rows, synthetic.draw.answer_language, synthetic.draw.answer_topic, strict=True
    ):
        for side, name in enumerate(("response_a", "response_b")):
            words = list(LANGUAGES.values())[draw_language[side]]
            assert any(row[name][0].startswith(word) for word in words.topics[topic[side]].split())


def test_no_language_uses_a_word_twice():
    for language in LANGUAGES.values():
        words = [word for wordlist in language.word_lists for word in wordlist]
        assert len(words) == len(set(words))


def test_prompts_repeat_within_a_split_and_never_across():
    settings = SyntheticSettings(rows=4000, test_rows=4000, shifted_rows=4000, languages=("en",))
    splits = [generate_split(settings, split) for split in SPLITS]
    prompts = [{normal_prompt(row["prompt"]) for row in split.rows} for split in splits]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert 0.7 < len(prompts[0]) / 4000 < 0.82


def test_full_has_hostile_rows_and_easy_has_none():
    for preset, share in (("easy", 0.0), ("full", 0.02)):
        rows = generate_split(preset_settings(preset, rows=5000), "train").rows
        texts = [row[field] for row in rows for field in ("prompt", "response_a", "response_b")]
        hostile = sum(any(mark in turn for turn in text for mark in INJECTIONS) for text in texts)
        assert hostile / 5000 == pytest.approx(share, abs=0.006)


def test_bias_and_noise_are_in_the_truth():
    fair = generate_split(SyntheticSettings(rows=4000), "train").probs
    biased = generate_split(SyntheticSettings(rows=4000, position_bias=1.0), "train").probs
    noisy = generate_split(SyntheticSettings(rows=4000, label_noise=1.0), "train").probs
    assert (biased[:, 0] / biased[:, 1]) == pytest.approx(np.e * fair[:, 0] / fair[:, 1])
    np.testing.assert_allclose(noisy, 1 / 3)
