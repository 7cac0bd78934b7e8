"""
Judge API in Python: `Judge.load(folder).judge(prompt, response_a, response_b)`, for one battle or lists of battles.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import average_over_orders, widen
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS
from sft_judge.data.importing.conversation import clean_text
from sft_judge.inference.engines import open_engine, usable_engines
from sft_judge.inference.scoring import orders_of, score_battles
from sft_judge.inference.unscored import is_finite
from sft_judge.modeling.hub import judge_folder
from sft_judge.modeling.judge_spec import JudgeSpec, read_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

NO_FINITE_SCORES = (
    "The judge gives no finite numbers for a battle. Weights that overflow in half precision need dtype float32 or "
    "bfloat16; a weight that is not finite is damaged."
)
Text = str | list[str]  # one turn, or the turns of a conversation


@dataclass(frozen=True)
class Judgement:
    """Hold calibrated probabilities, which sum to one. `tie` is 0 for a judge with two verdicts."""

    a: float
    b: float
    tie: float
    verdict: str  # the most likely of "a", "b", "tie"; also "tie" if a and b are exactly equally likely
    swap_agreement: bool | None  # True if both orders favour the same verdict; None with one order


class Judge:
    """Judge battles on an engine. Create a judge with `load`; use it as a context manager to free the engine early."""

    def __init__(self, engine, prompt: JudgePrompt, spec: JudgeSpec):
        self.engine, self.prompt, self.spec = engine, prompt, spec

    @classmethod
    def load(
        cls,
        folder: str | Path,
        engine: str = "transformers",
        dtype: str = "auto",
        *,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
    ) -> "Judge":
        """
        Load a judge.

        Args:
            folder: its folder, or its Hub id, with `ID@REVISION` for a branch, tag or commit.
            engine: `transformers`, `vllm`, or `auto`: vLLM if it can run this judge here.
            dtype: of the weights: `float32`, `bfloat16`, `float16`, or `auto`, that of the checkpoint.
            revision: branch, tag or commit on the Hub, instead of `@REVISION`.
            device: torch device such as `cuda:1`; by default a GPU if there is one. Only for transformers.
            batch_size: maximum number of rows (a battle in one order) in a batch; by default a batch holds up to 8,192
                tokens. Only for transformers.

        Raises:
            InputError: the judge does not exist, or the settings cannot be combined.
        """
        place = judge_folder(str(folder), revision)
        spec = read_spec(place)
        engine = usable_engines(place)[-1] if engine == "auto" else engine
        previous = transformers_logging.set_tqdm_hook(_disabled_bar)
        try:
            prompt = JudgePrompt.of(load_tokenizer(place), spec)
            opened = open_engine(engine, place, spec, dtype, device=device, batch_size=batch_size)
        finally:
            transformers_logging.set_tqdm_hook(previous)
        return cls(opened, prompt, spec)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.engine.__exit__(*error)

    def judge(self, prompt, response_a=None, response_b=None, swap: str | None = None, language=None):
        """
        Judge one battle or many.

        Args:
            prompt: a text; a list with a text or a list of turns for each battle; or whole battles: a dict of
                `prompt`, `response_a`, `response_b` and optionally `language`, a list of such dicts, or a
                `datasets.Dataset`.
            response_a: as `prompt`; None if whole battles are given.
            response_b: as `response_a`.
            swap: `both` or `none`; by default the judge's own policy.
            language: language of the prompt, or a list of languages; None if whole battles are given.

        Returns:
            A `Judgement` for one battle, or a list of them in the order of the battles.

        Raises:
            InputError: a value is missing, or is neither a text nor a list of turns; or the judge gives no finite
                numbers for a battle.
        """
        whole = response_a is None and response_b is None
        one = isinstance(prompt, Mapping if whole else str)
        if whole and language is not None:
            raise InputError("language is for three separate texts; give whole battles the key 'language' instead.")
        rows = (
            _whole_battles([prompt] if one else prompt)
            if whole
            else _zip_battles(prompt, response_a, response_b, language)
        )
        judgements = self._judge(rows, swap or self.spec.swap)
        return judgements[0] if one else judgements

    def _judge(self, rows: list[dict], swap: str) -> list[Judgement]:
        orders = orders_of(swap)
        if not rows:
            return []
        rows = self.prompt.with_languages(rows)  # a calibration may depend on the language
        logp = score_battles(self.engine, self.prompt, rows, orders)
        judged = judgements_or_none(logp, self.spec, [row["language"] for row in rows])
        missing = [place for place, judgement in enumerate(judged) if judgement is None]
        if missing:
            raise InputError(f"{NO_FINITE_SCORES} Battle {missing[0]} of {len(rows)}, {len(missing)} in all.")
        return judged


def _disabled_bar(make, args: tuple, options: dict):
    """Create the progress bar that transformers shows while it loads weights, disabled."""
    return make(*args, **{**options, "disable": True})


def judgements(logp: np.ndarray, spec: JudgeSpec, languages: list | None = None) -> list[Judgement]:
    """
    Convert log-probabilities to judgements: average the orders' probabilities, then calibrate.

    Args:
        logp: log-probabilities [N, orders, K], un-swapped (a is the battle's own response_a in every order).
        spec: the judge's judge.json.
        languages: language of each battle [N], for a calibration by language.
    """
    assert np.isfinite(logp).all(), "a verdict of NaN"
    probs = np.exp(logp)
    agree = probs.argmax(axis=2)
    averaged = spec.calibrate(average_over_orders(probs), languages)
    return [
        Judgement(
            *map(float, row),
            verdict=VERDICTS[2] if row[0] == row[1] >= row.max() else VERDICTS[int(row.argmax())],
            swap_agreement=bool(len(set(both)) == 1) if probs.shape[1] == 2 else None,
        )
        for row, both in zip(widen(averaged), agree.tolist(), strict=True)
    ]


def judgements_or_none(logp: np.ndarray, spec: JudgeSpec, languages: list) -> list[Judgement | None]:
    """
    Convert log-probabilities to judgements, None for a battle with NaN in an order.

    Args:
        logp: as for `judgements`.
        spec: the judge's judge.json.
        languages: language of each battle [N].
    """
    found: list[Judgement | None] = [None] * len(logp)
    rows = np.flatnonzero(is_finite(logp).all(axis=1))
    for row, judgement in zip(rows, judgements(logp[rows], spec, [languages[row] for row in rows]), strict=True):
        found[row] = judgement
    return found


def _whole_battles(battles) -> list[dict]:
    """Build rows from mappings; a `datasets.Dataset` is a sequence of mappings too."""
    if isinstance(battles, str | Mapping) or not isinstance(battles, Iterable):
        raise InputError(
            f"Got a {type(battles).__name__} without responses; give three texts, or whole battles as dicts."
        )
    rows = []
    for place, battle in enumerate(battles):
        if not isinstance(battle, Mapping):
            raise InputError(f"Battle {place} is a {type(battle).__name__}, expected a dict of {', '.join(FIELDS)}.")
        missing = [name for name in FIELDS if name not in battle]
        if missing:
            raise InputError(
                f"Battle {place} has no {missing[0]!r}; it has {', '.join(map(repr, battle)) or 'nothing'}."
            )
        rows.append(
            {name: _turns(battle[name], name, place) for name in FIELDS} | {"language": battle.get("language")}
        )
    return rows


def _zip_battles(prompt, response_a, response_b, language) -> list[dict]:
    """Build rows from three texts, or from three lists of the same length."""
    one = isinstance(prompt, str)
    fields = [[text] if one else list(text or ()) for text in (prompt, response_a, response_b)]
    if len({len(field) for field in fields}) != 1:
        raise InputError(
            f"{len(fields[0])} prompts, {len(fields[1])} and {len(fields[2])} responses, expected the same number."
        )
    languages = [language] * len(fields[0]) if one or language is None else list(language)
    if len(languages) != len(fields[0]):
        raise InputError(f"{len(languages)} languages for {len(fields[0])} battles; give one for each battle.")
    return [
        {name: _turns(text, name, place) for name, text in zip(FIELDS, texts, strict=True)} | {"language": spoken}
        for place, (*texts, spoken) in enumerate(zip(*fields, languages, strict=True))
    ]


def _turns(text: Text, field: str, place: int) -> list[str]:
    turns = [text] if isinstance(text, str) else text
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        seen = f"a list of {type(turns[0]).__name__}" if isinstance(turns, list) and turns else type(turns).__name__
        raise InputError(f"{field} of battle {place} is {seen}, expected a text or a list of turns, each a text.")
    return [clean_text(turn, Counter()) for turn in turns]
