"""
Generator of synthetic battles with known preference probabilities, to test learning without pretrained weights.

The preference model (preference_model.py) draws the qualities of an answer. This module writes a text from which each
of the counts can be read, and draws the verdict. Everything is drawn in arrays; Python only joins words.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.synthetic import preference_model as preferences
from sft_judge.data.synthetic.preference_model import Draw, SyntheticSettings
from sft_judge.data.synthetic.vocabulary import INJECTIONS, LANGUAGES

FIRST_TOPIC = 5  # index of the first topic in a language's word lists: courtesy, rudeness, again, plain, ask, topics
LISTS = {"plain": 3, "courtesy": 0, "rudeness": 1, "again": 2}
ASK = 4


@dataclass
class SyntheticSplit:
    """
    N battles as rows, with the probabilities `[N, 3]` that their verdicts were drawn from.

    Attributes:
        rows: the battles.
        probs: true probabilities `[N, 3]`.
        verdicts: indices into VERDICTS `[N]`.
        draw: the qualities of the answers.
    """

    rows: list[dict]
    probs: np.ndarray
    verdicts: np.ndarray
    draw: Draw


def generate_split(settings: SyntheticSettings, split: str) -> SyntheticSplit:
    """
    Generate one split. Splits share no prompt, except for near-duplicates.

    Each split has its own random stream, so its rows do not change with the size of the other splits.

    Args:
        settings: settings of the generator.
        split: one of SPLITS.
    """
    place = preferences.SPLITS.index(split)
    count = (settings.rows, settings.test_rows, settings.shifted_rows)[place]
    rng = np.random.default_rng([settings.seed, place])
    prompts, frames = _draw_prompts(rng, count, place, settings)
    draw = preferences.draw_qualities(rng, *frames, settings)
    answers = [_write_answers(rng, draw, side, settings) for side in (0, 1)]
    probs = preferences.fit_preference_model(settings, split).probabilities(draw)
    verdicts = np.minimum((rng.random((count, 1)) > probs.cumsum(axis=1)).sum(axis=1), settings.verdicts - 1)
    names = list(preferences.MODELS)
    rows = [
        {
            "id": str((place + 1) * 1_000_000_000 + row),
            "model_a": names[draw.model[row, 0]],
            "model_b": names[draw.model[row, 1]],
            "prompt": prompts[row],
            "response_a": answers[0][row],
            "response_b": answers[1][row],
            "verdict": VERDICTS[verdicts[row]],
        }
        for row in range(count)
    ]
    _add_injections(rng, rows, settings.hostile)
    return SyntheticSplit(rows, probs, verdicts, draw)


class Vocabulary:
    """Words of all languages in use as one array, with the start of each (language, list)."""

    def __init__(self, languages: tuple[str, ...]):
        lists = [LANGUAGES[language].word_lists for language in languages]
        self.size = np.array([[len(words) for words in of_one] for of_one in lists])  # [languages, lists]
        self.start = np.concatenate([[0], self.size.ravel().cumsum()[:-1]]).reshape(self.size.shape)
        self.words = np.array([word for of_one in lists for words in of_one for word in words], dtype=object)

    def draw(self, rng: np.random.Generator, language: np.ndarray, lists: np.ndarray) -> np.ndarray:
        """
        Draw one word for each entry uniformly from its list.

        Args:
            rng: random generator.
            language: language index of each entry.
            lists: word-list index of each entry.
        """
        drawn = (rng.random(len(language)) * self.size[language, lists]).astype(int)
        return self.words[self.start[language, lists] + drawn]


def _write_turns(rng, settings, language, turns, counts, lists, end: int) -> list[list[str]]:
    """
    Write N texts: `counts` `[N, K]` words from the word lists `lists` `[N, K]`, shuffled over `turns` `[N]` turns.

    Each turn opens with a word of the first kind, so there must be at least as many of these as turns. A word from the
    list "again" is followed by this opening word, which is how repetition looks in the text. `end` is 0 for questions
    and 1 for answers.
    """
    rows, kinds = counts.shape
    per_row = counts.sum(axis=1)
    owner = np.repeat(np.arange(rows), per_row)
    kind = np.repeat(np.tile(np.arange(kinds), rows), counts.ravel())
    rank = np.arange(len(owner)) - np.repeat(per_row.cumsum() - per_row, per_row)
    opens = rank < turns[owner]
    turn = np.where(opens, rank, (rng.random(len(owner)) * turns[owner]).astype(int))
    order = np.lexsort((np.where(opens, -1.0, rng.random(len(owner))), turn, owner))
    owner, turn, wordlist = owner[order], turn[order], lists[owner[order], kind[order]]
    words = Vocabulary(settings.languages).draw(rng, language[owner], wordlist)
    first = np.concatenate([[True], (owner[1:] != owner[:-1]) | (turn[1:] != turn[:-1])])
    begins = np.flatnonzero(first)
    repeats = wordlist == LISTS["again"]
    between = np.array([LANGUAGES[name].between for name in settings.languages], dtype=object)[language[owner]]
    opening = words[begins][first.cumsum() - 1]
    words[repeats] = words[repeats] + between[repeats] + opening[repeats]
    texts = [[] for _ in range(rows)]
    for begin, stop in zip(begins, [*begins[1:], len(words)], strict=True):
        row = owner[begin]
        mark = LANGUAGES[settings.languages[language[row]]].ends[end]
        texts[row].append(between[begin].join(words[begin:stop]) + mark)
    return texts


def _write_answers(rng, draw: Draw, side: int, settings: SyntheticSettings) -> list[list[str]]:
    """Write the answers of one side (0 or 1) as lists of turns."""
    lists = np.tile([0, *(LISTS[kind] for kind in preferences.KINDS[1:])], (len(draw.turns), 1))
    lists[:, preferences.TOPIC] = FIRST_TOPIC + draw.answer_topic[:, side]
    return _write_turns(rng, settings, draw.answer_language[:, side], draw.turns, draw.counts[:, side], lists, end=1)


def _draw_prompts(rng, count: int, place: int, settings: SyntheticSettings):
    """
    Draw `count` prompts (lists of turns) and their frames: language, topic and number of turns, each `[count]`.

    A prompt belongs to the split given by its checksum, which keeps the splits disjoint without comparing them.
    """
    fresh = max(1, round(count * preferences.FRESH_PROMPTS))
    prompts, frames = [], []
    while len(prompts) < fresh:
        language, topic, turns = drawn = preferences.draw_frames(rng, fresh * 4, settings)
        counts = np.stack([turns, rng.integers(2, 5, size=len(turns)) * turns, rng.integers(1, 4, len(turns))], axis=1)
        lists = np.stack([np.full_like(topic, ASK), FIRST_TOPIC + topic, np.full_like(topic, LISTS["plain"])], axis=1)
        texts = _write_turns(rng, settings, language, turns, counts, lists, end=0)
        for text, *frame in zip(texts, *drawn, strict=True):
            if zlib.crc32("\n".join(text).encode()) % len(preferences.SPLITS) == place:
                prompts.append(text)
                frames.append(frame)
    chosen = np.concatenate([np.arange(fresh), rng.integers(fresh, size=count - fresh)])[rng.permutation(count)]
    frames = np.array(frames)[chosen].T
    prompts = [prompts[index] for index in chosen]
    _vary_prompts(rng, prompts, frames[0], settings)
    return prompts, frames


def _vary_prompts(rng, prompts: list[list[str]], language: np.ndarray, settings: SyntheticSettings) -> None:
    """
    Replace some prompts in place by near-duplicates: another row's prompt in the same language with one extra word.
    """
    for row in np.flatnonzero(rng.random(len(prompts)) < settings.near_duplicates):
        words = LANGUAGES[settings.languages[language[row]]]
        plain = words.word_lists[LISTS["plain"]]
        *before, last = prompts[row]
        extra = plain[rng.integers(len(plain))]
        prompts[row] = [*before, last[:-1] + words.between + extra + last[-1]]


def _add_injections(rng, rows: list[dict], share: float) -> None:
    """Append one of INJECTIONS to one turn of one text of randomly chosen rows, in place."""
    for row in np.flatnonzero(rng.random(len(rows)) < share):
        field = ("prompt", "response_a", "response_b")[rng.integers(3)]
        *before, last = rows[row][field]
        rows[row][field] = [*before, f"{last} {INJECTIONS[rng.integers(len(INJECTIONS))]}"]


assert preferences.KINDS[preferences.AGAIN] == "again" and set(LISTS) == set(preferences.KINDS[1:])
