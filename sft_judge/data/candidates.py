"""
Prompts with several candidate answers, as samplers write them: the input of best-of-n, preference pairs and rewards.

A row is `{"id"?, "prompt", "candidates"}`; `responses` and `completions` are accepted for `candidates`. A prompt is a
text, a list of turns, or a chat. A candidate is a text, as many turns as the prompt has, or the messages that follow
(or the whole chat again).
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
    A prompt with its candidates, both as messages and as the turns shown to a judge.

    Attributes:
        prompts: the prompt's turns.
        responses: turns of each candidate `[n]`, as many as the prompt has.
        history: the prompt's messages.
        answers: messages after the prompt, of each candidate `[n]`.
        id: id of the prompt.
        language: language of the prompt, if known.
        row: the row as it was read.
        has_reference: the last response is a reference to compare with, not a candidate.
    """

    prompts: list[str]
    responses: list[list[str]]
    history: list[Message]
    answers: list[list[Message]]
    id: str = ""
    language: str | None = None
    row: dict = field(default_factory=dict)
    has_reference: bool = False

    def distinct(self) -> tuple[list[list[str]], list[int]]:
        """Return the distinct responses by first appearance, and the index of each response `[n]` among them."""
        number: dict[tuple, int] = {}
        places = [number.setdefault(tuple(response), len(number)) for response in self.responses]
        return [list(response) for response in number], places


def make_group(prompt, candidates: list) -> Group:
    """
    Build a group from a prompt and candidates in any of the accepted forms.

    Args:
        prompt: a text, a list of turns, or a chat.
        candidates: a text, a list of turns, or a chat each.

    Raises:
        RowError: the prompt or a candidate has another form.
    """
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
    """
    Return messages as they are, and plain text as a message of `role`.

    Text is not parsed as JSON even if it looks like a chat, because an answer may be any text.
    """
    messages = None if isinstance(value, str) else turns.read_messages(value, name, Counter())
    return messages or [(role, _text(value, name))]


def _text(value, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(name, f"{json.dumps(value, default=str)[:40]}, expected text or messages")
    return turns.clean_text(value, Counter())


def _turns_chat(prompt: list[str], candidate) -> list[Message]:
    """Merge the turns of a prompt and of one candidate into a chat."""
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
    Read prompts with candidates from a JSONL or Parquet file.

    Args:
        path: the file.
        limit: maximum number of rows; None reads all.
        reference: field with an answer to compare the candidates with.

    Raises:
        InputError: the file cannot be read or has no rows, or a row is malformed.
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
        raise RowError(name or NAMES[0], "missing, empty or not a list; expected at least one candidate")
    if reference and row.get(reference) is None:
        raise RowError(reference, "missing or null, expected the answer to compare with")
    group = make_group(row["prompt"], [*row[name], *([row[reference]] if reference else [])])
    group.id, group.language = row_id(row, "") or str(number), row.get("language")
    group.row, group.has_reference = {"prompt": row["prompt"], "candidates": row[name]}, reference is not None
    return group


def write_rows(path: Path, rows: list[dict]) -> None:
    """
    Write rows to Parquet, or to JSONL if the file name ends in `.jsonl`, atomically.

    Args:
        path: file to write.
        rows: the rows.
    """
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
