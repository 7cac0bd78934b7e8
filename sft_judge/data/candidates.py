"""
One prompt and several answers to it, as samplers write them: what best-of-n, preference pairs and rewards compare.

A row is `{"id"?, "prompt", "candidates"}`; `responses` and `completions` name the same. A prompt is a text, a list of
turns, or a chat; a candidate is a text, as many turns, or the messages that follow (or the whole chat again).
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError
from sft_judge.core.files import whole_file
from sft_judge.data.importing import conversation as turns
from sft_judge.data.importing.conversation import RowError
from sft_judge.data.importing.formats import row_id
from sft_judge.data.importing.preference import whole_chat
from sft_judge.data.importing.readers import read_rows

NAMES = ("candidates", "responses", "completions")
Message = tuple[str, str]  # role, text


@dataclass
class Group:
    """
    A prompt with its candidates, as messages and as the turns that a judge is shown.

    `responses` [n] are turns as `prompts` has them; `history` is the prompt's messages, `answers` [n] those after it.
    """

    prompts: list[str]
    responses: list[list[str]]
    history: list[Message]
    answers: list[list[Message]]
    id: str = ""
    language: str | None = None
    row: dict = field(default_factory=dict)  # as it was read
    has_reference: bool = False  # the last response is one to compare with, no candidate

    def distinct(self) -> tuple[list[list[str]], list[int]]:
        """The different responses, by first appearance, and which of them each response [n] is."""
        number: dict[tuple, int] = {}
        places = [number.setdefault(tuple(response), len(number)) for response in self.responses]
        return [list(response) for response in number], places


def make_group(prompt, candidates: list) -> Group:
    """A prompt and its candidates in any of the forms. Raises `RowError`."""
    in_turns = isinstance(prompt, list) and bool(prompt) and all(isinstance(turn, str) for turn in prompt)
    chats = [_turns_chat(prompt, one) if in_turns else None for one in candidates]
    history = [("user", prompt[0])] if in_turns else _messages(prompt, "prompt", "user")
    if not in_turns:
        chats = [whole_chat(history, _messages(one, "candidates", "assistant"), "candidates") for one in candidates]
    pairs = [turns.pair_turns(chat, "candidates", Counter()) for chat in chats]
    if any(prompts != pairs[0][0] for prompts, _ in pairs):
        raise RowError("candidates", "the prompts inside the candidates' chats differ")
    answers = [chat[len(history) :] for chat in chats]
    return Group(pairs[0][0], [responses for _, responses in pairs], history, answers)


def _messages(value, name: str, role: str) -> list[Message]:
    """Messages as they are; text is one of `role`, also where it is the JSON of a chat: an answer may be any text."""
    messages = None if isinstance(value, str) else turns.read_messages(value, name, Counter())
    return messages or [(role, _text(value, name))]


def _text(value, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(name, f"{json.dumps(value, default=str)[:40]}, expected text or messages")
    return turns.clean_text(value, Counter())


def _turns_chat(prompt: list[str], candidate) -> list[Message]:
    """Turns of a prompt and of an answer to each as one chat."""
    answers = [candidate] if isinstance(candidate, str) else candidate
    if not isinstance(answers, list) or len(answers) != len(prompt):
        raise RowError("candidates", f"expected {len(prompt)} turns in each, as many as the prompt has")
    pairs = zip(prompt, answers, strict=True)
    return [
        message
        for asked, answered in pairs
        for message in (("user", _text(asked, "prompt")), ("assistant", _text(answered, "candidates")))
    ]


def read_groups(path: Path, limit: int | None = None, reference: str | None = None) -> list[Group]:
    """
    The rows of a JSONL or Parquet file; `reference` names a field with an answer that candidates are compared with.

    Raises `InputError` for the first row that is none, and for a file that cannot be read.
    """
    groups = []
    for number, row, problem in islice(read_rows(path), limit):
        try:
            if problem is not None:
                raise problem
            groups.append(_group(row, number, reference))
        except RowError as error:
            raise InputError(
                f"{path} row {number}: {error.field}: {error.reason}. A row has prompt and {NAMES[0]} (or "
                f"{' or '.join(NAMES[1:])}), a list of texts or chats."
            ) from error
    if not groups:
        raise InputError(f"{path}: no rows.")
    return groups


def _group(row: dict, number: int, reference: str | None) -> Group:
    if row.get("prompt") is None:
        raise RowError("prompt", "missing or null")
    name = next((name for name in NAMES if row.get(name) is not None), None)
    if name is None or not isinstance(row[name], list) or not row[name]:
        raise RowError(name or NAMES[0], "missing, empty or no list; expected at least one candidate")
    if reference and row.get(reference) is None:
        raise RowError(reference, "missing or null, expected the answer to compare with")
    group = make_group(row["prompt"], [*row[name], *([row[reference]] if reference else [])])
    group.id, group.language = row_id(row, "") or str(number), row.get("language")
    group.row, group.has_reference = {"prompt": row["prompt"], "candidates": row[name]}, reference is not None
    return group


def write_rows(path: Path, rows: list[dict]) -> None:
    """Rows to Parquet, or to JSONL where the name ends so, whole or not at all."""
    with whole_file(path) as aside:
        if path.suffix == ".jsonl":
            aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            return
        try:
            table = pa.Table.from_pylist(rows)
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: the rows mix texts and chats, which Parquet cannot hold ({error}). Name the output .jsonl."
            ) from error
        pq.write_table(table, aside)
