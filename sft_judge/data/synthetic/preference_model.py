"""
Preference model of synthetic battles: the qualities of an answer, its utility, and its probability to win.

The qualities are drawn as counts (number of courteous words, length, ...). Verdicts follow Davidson (1970), "On
extending the Bradley-Terry model to accommodate ties in paired comparison experiments". The model depends only on the
settings, not on the seed or the number of rows, so rows of different seeds may be mixed.
"""

from dataclasses import dataclass, fields

import numpy as np

from sft_judge.core.errors import InputError, nearest
from sft_judge.data.synthetic.vocabulary import LANGUAGES, NUM_TOPICS

SPLITS = ("train", "test", "shifted")
KINDS = ("topic", "plain", "courtesy", "rudeness", "again")  # the columns of an answer's counts
TOPIC, PLAIN, COURTESY, RUDENESS, AGAIN = range(5)
# utility per courteous word, rude word, repeated word and word of length; of being on topic and in the language
WEIGHTS = {"train": (1.0, -1.2, -0.9, 0.12, 1.0, 1.0), "shifted": (0.7, -0.6, -1.5, 0.05, 1.0, 0.4)}
# mean number of courteous, rude, repeated, and topic plus plain words; probability to be on topic, in the language
MODELS = {
    "aurora-70b": (1.9, 0.2, 0.2, 13.0, 0.96, 0.98),
    "birch-34b": (1.5, 0.4, 0.4, 11.0, 0.92, 0.95),
    "cobalt-13b": (1.2, 0.4, 0.8, 12.0, 0.85, 0.90),
    "dune-13b": (0.8, 0.5, 0.4, 7.5, 0.80, 0.85),
    "ember-7b": (1.0, 1.0, 0.6, 10.0, 0.75, 0.80),
    "flint-7b": (0.5, 0.8, 1.0, 8.0, 0.65, 0.75),
    "grove-3b": (0.6, 1.3, 0.8, 6.5, 0.55, 0.65),
    "haze-1b": (0.3, 1.6, 1.4, 6.0, 0.45, 0.55),
}
MAX_COUNT = 4  # of courteous, rude or repeated words in an answer
TURN_SHARES = (0.7, 0.2, 0.1)  # shares of conversations with one, two and three turns
FRESH_PROMPTS = 0.8  # share of rows with a new prompt; the others repeat another row's prompt, as in real votes
REFERENCE_ROWS = 50_000  # rows on which the model's scale and its tie parameter are fitted


@dataclass(frozen=True)
class SyntheticSettings:
    """
    Settings of the generator.

    `PRESETS` are fixed: the goals of tests and benchmarks refer to presets, never to tuned settings.
    """

    rows: int = 20_000  # of train.csv
    test_rows: int = 2_000
    shifted_rows: int = 20_000
    seed: int = 0
    verdicts: int = 3  # 3, or 2 for a model without ties
    languages: tuple[str, ...] = tuple(LANGUAGES)
    tie_rate: float = 0.22  # mean probability of a tie, before label noise
    scale: float = 2.0  # standard deviation of u_a - u_b in log-odds, if textual and harder qualities were independent
    label_noise: float = 0.0  # share of verdicts drawn uniformly at random
    position_bias: float = 0.0  # added to the utility of response a, in log-odds
    length_bias: float = 0.0  # utility of one more word, added to that of the quality `length`
    hard_share: float = 0.0  # share of the utility's variance from the two harder qualities (topic and language)
    near_duplicates: float = 0.0  # share of rows whose prompt is another row's with one extra word
    hostile: float = 0.0  # share of rows with text that looks like control tokens or a verdict

    def __post_init__(self):
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # a NaN fails too
                raise InputError(f"--{name.replace('_', '-')} {value}: expected a number from {low} to {high}.")
        for language in self.languages:
            if language not in LANGUAGES:
                raise InputError(
                    f"--languages {language}: no word lists for it.{nearest(language, LANGUAGES)} "
                    f"There are {', '.join(LANGUAGES)}."
                )
        if not self.languages or len(set(self.languages)) < len(self.languages):
            raise InputError(f"--languages {','.join(self.languages)}: expected each language once, at least one.")


_MANY = 10_000_000
RANGES = {
    **{"rows": (1, _MANY), "test_rows": (1, _MANY), "shifted_rows": (1, _MANY), "seed": (0, 2**32 - 1)},
    **{"verdicts": (2, 3), "tie_rate": (0.01, 0.9), "scale": (0.0, 20.0), "label_noise": (0.0, 1.0)},
    **{"position_bias": (-10.0, 10.0), "length_bias": (-1.0, 1.0), "hard_share": (0.0, 1.0)},
    **{"near_duplicates": (0.0, 1.0), "hostile": (0.0, 1.0)},
}
PRESETS = {
    "easy": {},  # the defaults: the four textual qualities, no noise, no bias
    "full": {
        **{"tie_rate": 0.25, "label_noise": 0.05, "position_bias": 0.2, "length_bias": 0.02, "hard_share": 0.4},
        **{"near_duplicates": 0.05, "hostile": 0.02},
    },
}


def preset_settings(preset: str, **knobs) -> SyntheticSettings:
    """
    Return the settings of a preset; knobs that are not None override it.

    Args:
        preset: one of PRESETS.
        **knobs: fields of `SyntheticSettings`.
    """
    names = {field.name for field in fields(SyntheticSettings)}
    assert set(knobs) <= names, set(knobs) - names
    return SyntheticSettings(**{**PRESETS[preset], **{k: v for k, v in knobs.items() if v is not None}})


@dataclass
class Draw:
    """
    Everything that determines N battles before their text is written. Axis 1 is the answer, a or b.

    Attributes:
        language: language of the prompt `[N]`, index into settings.languages.
        topic: topic of the prompt `[N]`.
        turns: number of turns `[N]`.
        model: model of each answer `[N, 2]`, index into MODELS.
        counts: number of words of each of KINDS `[N, 2, 5]`.
        answer_language: language of each answer `[N, 2]`.
        answer_topic: topic of each answer `[N, 2]`.
    """

    language: np.ndarray
    topic: np.ndarray
    turns: np.ndarray
    model: np.ndarray
    counts: np.ndarray
    answer_language: np.ndarray
    answer_topic: np.ndarray

    @property
    def words(self) -> np.ndarray:
        """
        Return the number of words of each answer `[N, 2]`.

        A repetition has two words: a word for "again" and the repeated opening word.
        """
        return self.counts.sum(-1) + self.counts[..., AGAIN]

    @property
    def qualities(self) -> np.ndarray:
        """Return the qualities of each answer `[N, 2, 6]` in the order of WEIGHTS."""
        hard = [self.answer_topic == self.topic[:, None], self.answer_language == self.language[:, None]]
        return np.stack([*np.moveaxis(self.counts[..., COURTESY:], -1, 0), self.words, *hard], axis=-1).astype(float)


def draw_qualities(rng: np.random.Generator, language, topic, turns, settings: SyntheticSettings) -> Draw:
    """
    Draw two different models for each prompt, and the qualities of their answers from the models' habits.

    Args:
        rng: random generator.
        language: language of each prompt `[N]`.
        topic: topic of each prompt `[N]`.
        turns: number of turns of each prompt `[N]`.
        settings: settings of the generator.
    """
    count = len(language)
    first = rng.integers(len(MODELS), size=count)
    model = np.stack([first, (first + rng.integers(1, len(MODELS), size=count)) % len(MODELS)], axis=1)
    habits = np.array(list(MODELS.values()))[model]  # [N, 2, 6]
    marks = np.minimum(rng.poisson(habits[..., :3]), MAX_COUNT)
    body = np.exp(rng.normal(np.log(habits[..., 3]), 0.35)).round().astype(int)
    topical = np.maximum((body + 1) // 2, turns[:, None])  # each turn opens with a topic word
    counts = np.concatenate([topical[..., None], np.maximum(body - topical, 1)[..., None], marks], axis=-1)
    strays = rng.random((2, count, 2)) > np.moveaxis(habits[..., 4:], -1, 0)
    strays &= settings.hard_share > 0  # if the harder qualities have no weight, every answer has them
    other_topic = (topic[:, None] + rng.integers(1, NUM_TOPICS, size=(count, 2))) % NUM_TOPICS
    others = len(settings.languages) - 1
    step = rng.integers(1, others + 1, size=(count, 2)) if others else 0
    other_language = (language[:, None] + step) % (others + 1)
    return Draw(
        language=language,
        topic=topic,
        turns=turns,
        model=model,
        counts=counts,
        answer_language=np.where(strays[1], other_language, language[:, None]),
        answer_topic=np.where(strays[0], other_topic, topic[:, None]),
    )


def draw_frames(rng: np.random.Generator, count: int, settings: SyntheticSettings):
    """
    Draw language, topic and number of turns of `count` prompts, each `[count]`.

    Args:
        rng: random generator.
        count: number of prompts.
        settings: settings of the generator.
    """
    language = rng.integers(len(settings.languages), size=count)
    turns = 1 + np.searchsorted(np.cumsum(TURN_SHARES[:-1]), rng.random(count), side="right")
    return language, rng.integers(NUM_TOPICS, size=count), turns


@dataclass(frozen=True)
class PreferenceModel:
    """
    True preference model.

    Attributes:
        weights: weights of the qualities `[6]`.
        nu: Davidson's tie parameter.
        settings: settings of the generator, with biases and noise.
    """

    weights: np.ndarray
    nu: float
    settings: SyntheticSettings

    def probabilities(self, draw: Draw) -> np.ndarray:
        """
        Compute the probabilities `[N, 3]` that verdicts are drawn from, in the order of VERDICTS and including noise.
        """
        clean = davidson(_utilities(draw, self.weights, self.settings), self.nu)
        in_use = (np.arange(3) < self.settings.verdicts) / self.settings.verdicts
        return (1 - self.settings.label_noise) * clean + self.settings.label_noise * in_use


def _utilities(draw: Draw, weights: np.ndarray, settings: SyntheticSettings) -> np.ndarray:
    """Compute the utility of each answer `[N, 2]`: the weighted sum of its qualities plus the biases."""
    utilities = draw.qualities @ weights + settings.length_bias * draw.words
    utilities[:, 0] += settings.position_bias
    return utilities


def davidson(utilities: np.ndarray, nu: float) -> np.ndarray:
    """
    Compute verdict probabilities `[N, 3]` from utilities `[N, 2]` (Davidson 1970).

    p_a : p_b : p_tie = e^{u_a} : e^{u_b} : nu e^{(u_a + u_b) / 2}.

    Args:
        utilities: utilities of a and b `[N, 2]` in log-odds.
        nu: tie parameter; 0 for a model without ties.
    """
    half = (utilities[:, 0] - utilities[:, 1]) / 2
    powers = np.stack([half, -half, np.zeros_like(half)], axis=1)
    odds = np.exp(powers - np.abs(half)[:, None]) * np.array([1.0, 1.0, nu])
    return odds / odds.sum(axis=1, keepdims=True)


def fit_preference_model(settings: SyntheticSettings, split: str) -> PreferenceModel:
    """
    Fit the scale of the split's WEIGHTS and the tie parameter nu on a reference sample that does not use the seed.

    Args:
        settings: settings of the generator.
        split: one of SPLITS.
    """
    from scipy.optimize import brentq

    rng = np.random.default_rng(20261120)
    draw = draw_qualities(rng, *draw_frames(rng, REFERENCE_ROWS, settings), settings)
    weights = np.array(WEIGHTS.get(split, WEIGHTS["train"]))
    difference = draw.qualities[:, 0] - draw.qualities[:, 1]
    for part, share in ((slice(0, 4), 1 - settings.hard_share), (slice(4, 6), settings.hard_share)):
        deviation = np.std(difference[:, part] @ weights[part])
        weights[part] *= settings.scale * np.sqrt(share) / deviation if deviation and share else 0.0
    if settings.verdicts == 2:
        return PreferenceModel(weights, 0.0, settings)
    utilities = _utilities(draw, weights, settings)
    log_nu = brentq(lambda log: davidson(utilities, np.exp(log))[:, 2].mean() - settings.tie_rate, -200, 200)
    return PreferenceModel(weights, float(np.exp(log_nu)), settings)
