"""A judge in Python: `Judge.load(folder).judge(prompt, response_a, response_b)`, one battle or lists of them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import average_over_orders, widen
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.importing.conversation import clean_text
from sft_judge.inference.engines import open_engine
from sft_judge.inference.scoring import orders_of, score_battles
from sft_judge.modeling.judge_spec import JudgeSpec, read_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

Text = str | list[str]  # one turn, or the turns of a conversation


@dataclass(frozen=True)
class Judgement:
    """Calibrated probabilities that sum to one; `tie` is 0 for a two-verdict judge."""

    a: float
    b: float
    tie: float
    verdict: str  # the most likely of "a", "b", "tie"; "tie" too where a and b are exactly as likely
    swap_agreement: bool | None  # whether both orders favour the same verdict; None with one order


class Judge:
    """A judge on an engine. Build with `load`; use as a context manager to free the engine early."""

    def __init__(self, engine, prompt: JudgePrompt, spec: JudgeSpec):
        self.engine, self.prompt, self.spec = engine, prompt, spec

    @classmethod
    def load(cls, folder: str, engine: str = "transformers", dtype: str = "auto") -> "Judge":
        """Open the judge in a model folder. Raises `InputError` where there is none."""
        spec = read_spec(folder)
        prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
        return cls(open_engine(engine, str(folder), spec, dtype), prompt, spec)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.engine.__exit__(*error)

    def judge(self, prompt, response_a, response_b, swap: str | None = None, language=None):
        """
        A `Judgement` for one battle, or a list of them for lists of battles.

        One battle: each text a string. Many: three lists of equal length whose items are strings or lists of turns.
        `swap` is "both" or "none"; by default the judge's own policy.
        """
        one = isinstance(prompt, str)
        fields = [[value] if one else list(value) for value in (prompt, response_a, response_b)]
        if len({len(field) for field in fields}) != 1:
            raise InputError(
                f"{len(fields[0])} prompts, {len(fields[1])} and {len(fields[2])} responses: not one battle each."
            )
        languages = [language] if one or language is None else language
        names = ("prompt", "response_a", "response_b")
        rows = [
            {name: _turns(text) for name, text in zip(names, texts, strict=True)}
            for texts in zip(*fields, strict=True)
        ]
        for row, spoken in zip(rows, languages * (len(rows) if len(languages) == 1 else 1), strict=True):
            row["language"] = spoken
        judgements = self._judge(rows, swap or self.spec.swap)
        return judgements[0] if one else judgements

    def _judge(self, rows: list[dict], swap: str) -> list[Judgement]:
        orders = orders_of(swap)
        if not rows:
            return []
        rows = self.prompt.with_languages(rows)  # by which a calibration may go too
        logp = score_battles(self.engine, self.prompt, rows, orders)
        return judgements(logp, self.spec, [row["language"] for row in rows])


def judgements(logp: np.ndarray, spec: JudgeSpec, languages: list | None = None) -> list[Judgement]:
    """Un-swapped log-probabilities [N, orders, K] as judgements: the orders' mean probability, then calibrated."""
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


def _turns(text: Text) -> list[str]:
    return [clean_text(turn, Counter()) for turn in ([text] if isinstance(text, str) else text)]
