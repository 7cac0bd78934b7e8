"""
Judge battles from lines of JSON as they arrive, with one loaded judge: `sft-judge judge` on a pipe.

A line is read, checked and answered with the server's code, so that both accept and return the same.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import unswap
from sft_judge.inference.judge import Judge, judgements_or_none
from sft_judge.inference.scoring import orders_of, score_finite
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores
from sft_judge.inference.serving.limits import Limits
from sft_judge.inference.serving.schema import Requests

LINES_AT_ONCE = 32
BYTES_AT_ONCE = 2**20


def arriving_lines(descriptor: int) -> Iterator[list[bytes]]:
    """
    Yield the lines of a file or pipe as they arrive, at most LINES_AT_ONCE together: no line waits for a later one.
    """
    rest = b""
    while part := os.read(descriptor, BYTES_AT_ONCE):
        *lines, rest = (rest + part).split(b"\n")
        for start in range(0, len(lines), LINES_AT_ONCE):
            yield lines[start : start + LINES_AT_ONCE]
    if rest:
        yield [rest]


def judge_lines(judge: Judge, batches: Iterable[list[bytes]]) -> Iterator[list[dict]]:
    """
    Judge battles, one JSON object per line.

    Args:
        judge: an open judge.
        batches: batches of lines. Empty lines are skipped, but counted in line numbers.

    Yields:
        For each batch a list with one object for each line, in order: `id` and a judgement, or `error` with its
            `message`.
    """
    requests, number = Requests(Limits()), 0
    for lines in batches:
        answers, read = [], {swap: [] for swap in SWAPS}
        for line in lines:
            number += 1
            if not line.strip():
                continue
            answers.append({})
            try:
                rows, swap = requests.read(line, one=True)
                rows = judge.prompt.with_languages(rows)  # a calibration may depend on the language
                (fields,) = judge.prompt.fit(rows)
            except InputError as error:
                answers[-1] = HttpError(400, CODES[400], f"line {number}: {error}").content()
            except HttpError as error:
                answers[-1] = HttpError(400, error.code, f"line {number}: {error}", error.param).content()
            else:
                read[swap or judge.spec.swap].append((len(answers) - 1, rows[0], fields))
        for swap, battles in read.items():
            for (place, row, fields), judgement in zip(battles, _judge(judge, battles, swap), strict=True):
                if judgement is None:
                    answers[place] = {"id": row["id"], **no_finite_scores().content()}
                    continue
                more = {"cut": fields.cut, "turns_left_out": fields.turns_left_out}
                answers[place] = {"id": row["id"], **asdict(judgement), **more}
        yield answers


def _judge(judge: Judge, battles: list[tuple], swap: str) -> list:
    """Return a judgement for each battle, None where the judge gives no finite numbers."""
    if not battles:
        return []
    orders = orders_of(swap)
    prompts = [judge.prompt.ids(fields, order) for *_, fields in battles for order in orders]
    names = [f"{row['id'] or place} ({order})" for place, row, _ in battles for order in orders]
    logp = unswap(score_finite(judge.engine, prompts, names), orders)
    return judgements_or_none(logp, judge.spec, [row["language"] for _, row, _ in battles])
