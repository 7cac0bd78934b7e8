"""
A battle and a token budget become token ids, the same way for training, labelling, quantising and serving.

The template and the family's chat template are rendered once per *shape* of battle, with a placeholder for each field;
what stands between the placeholders is the frame. Ids are frame ids and field ids joined: a field is encoded alone by
a copy of the tokenizer that knows no special tokens, so text from a battle cannot become one, and the place of the
answer is the length of the prompt, never something searched for in text.
"""

import json
import logging
import re
from dataclasses import dataclass
from functools import cached_property

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from sft_judge.errors import InputError
from sft_judge.spec import Budget, JudgeSpec

logger = logging.getLogger(__name__)

CUT_MARKER = " [...] "  # stands where the middle of a field was left out
# ends on a line break, as a space would merge with the verdict
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}Answer:\n"
_SLOT = re.compile("\ue000(prompt|response_a|response_b|language)(\\d+)\ue001")
_BLOCKS = ("system", "user")


@dataclass
class Fields:
    """The tokens of one battle after the budget: turns of each field, the language, and how many tokens were cut."""

    prompt: list[list[int]]
    response_a: list[list[int]]
    response_b: list[list[int]]
    language: list[int] | None
    cut: dict[str, int]


@dataclass(frozen=True)
class Frame:
    """What stands around the fields: `pieces[i]` comes before `slots[i]`, and the last piece after the last slot."""

    pieces: list[list[int]]
    slots: list[tuple[str, int]]
    tail: str  # text of the last piece: the verdict follows it

    @property
    def length(self) -> int:
        return sum(map(len, self.pieces))


class JudgePrompt:
    """The prompt of one judge: a tokenizer, the text of a template, the verdict words, a budget."""

    def __init__(self, tokenizer, template: str, words: list[str], budget: Budget, language: bool = False):
        if not tokenizer.is_fast:
            raise InputError(f"{tokenizer.name_or_path}: no fast tokenizer (tokenizer.json), which a judge needs.")
        self.tokenizer = tokenizer
        self.words = list(words)
        self.budget = budget
        self.language = language
        self._template = _compile(template)
        self._plain = without_special_tokens(tokenizer)
        self._marker = self._plain.encode(CUT_MARKER, add_special_tokens=False).ids
        self._frames: dict[tuple, Frame] = {}

    @classmethod
    def of(cls, tokenizer, spec: JudgeSpec) -> "JudgePrompt":
        """The prompt that judge.json describes. Raises `InputError` where the tokenizer beside it is another."""
        prompt = cls(tokenizer, spec.template, spec.verdict_words, spec.budget, spec.language)
        if prompt.verdict_ids != spec.verdict_ids:
            where = tokenizer.name_or_path
            raise InputError(
                f"{where}: the tokenizer gives verdict ids {prompt.verdict_ids}, judge.json {spec.verdict_ids}."
            )
        return prompt

    @cached_property
    def verdict_ids(self) -> list[int]:
        """
        The one token of each verdict word, in the place where the answer stands.

        Raises `InputError` where a word is several tokens there, merges with the text before it, or equals another.
        """
        ids = [verdict_id(self.tokenizer, self.frame(1, 1, 1, False).tail, word) for word in self.words]
        if len(set(ids)) < len(ids):
            raise InputError(f"Verdict words {self.words} share a token in {self.tokenizer.name_or_path}: {ids}.")
        return ids

    def fit(self, rows: list[dict]) -> list[Fields]:
        """Tokenise the fields of battles and cut them to the budget. Exchanging the responses exchanges the cuts."""
        texts = list({turn: None for row in rows for turn in self._texts(row)})
        encoded = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(texts, encoded, strict=True)}
        return [self._fit_row(row, ids) for row in rows]

    def ids(self, fields: Fields, order: str = "ab") -> list[int]:
        """Prompt ids of a fitted battle, its responses in the given order. The verdict is the token that follows."""
        first, second = (fields.response_a, fields.response_b)[:: 1 if order == "ab" else -1]
        shown = {"prompt": fields.prompt, "response_a": first, "response_b": second, "language": [fields.language]}
        frame = self.frame(len(fields.prompt), len(first), len(second), fields.language is not None)
        ids = list(frame.pieces[0])
        for (name, turn), piece in zip(frame.slots, frame.pieces[1:], strict=True):
            ids += shown[name][turn]
            ids += piece
        return ids

    def encode(self, rows: list[dict], orders: tuple[str, ...]) -> list[list[list[int]]]:
        """Prompt ids [rows][orders][tokens]."""
        return [[self.ids(fields, order) for order in orders] for fields in self.fit(rows)]

    def frame(self, num_prompt: int, num_a: int, num_b: int, language: bool) -> Frame:
        """The frame for battles with these numbers of turns."""
        key = (num_prompt, num_a, num_b, language)
        if key not in self._frames:
            self._frames[key] = self._render_frame(*key)
        return self._frames[key]

    def _render_frame(self, num_prompt: int, num_a: int, num_b: int, language: bool) -> Frame:
        turns = {"prompt": num_prompt, "response_a": num_a, "response_b": num_b}
        values = {name: [_slot(name, turn) for turn in range(count)] for name, count in turns.items()}
        text = self._render(values | {"language": _slot("language", 0) if language else None, "words": self.words})
        slots = [(match[1], int(match[2])) for match in _SLOT.finditer(text)]
        expected = [(name, turn) for name, count in turns.items() for turn in range(count)]
        wrong = [slot for slot in slots + expected if slots.count(slot) != 1 and slot[0] != "language"]
        if wrong:
            raise InputError(
                f"The prompt template shows turn {wrong[0][1] + 1} of {wrong[0][0]!r} {slots.count(wrong[0])} times; "
                "every turn of prompt, response_a and response_b must stand in it exactly once."
            )
        texts = _SLOT.sub("\ue002", text).split("\ue002")
        pieces = [self.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in texts]
        return Frame(pieces, slots, texts[-1])

    def _render(self, values: dict) -> str:
        try:
            context = self._template.new_context(values)
            system, user = ("".join(self._template.blocks[name](context)).strip("\n") for name in _BLOCKS)
        except (TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise InputError(f"The prompt template cannot be rendered: {error}.") from error
        return chat_text(self.tokenizer, system, user)

    def _texts(self, row: dict) -> list[str]:
        language = [row["language"]] if self.language and row.get("language") else []
        return [*row["prompt"], *row["response_a"], *row["response_b"], *language]

    def _fit_row(self, row: dict, ids: dict[str, list[int]]) -> Fields:
        groups = {name: [ids[text] for text in row[name]] for name in ("prompt", "response_a", "response_b")}
        language = ids[row["language"]][: self.budget.prompt] if self.language and row.get("language") else None
        lengths = [sum(map(len, turns)) for turns in groups.values()]
        limits = (self.budget.prompt, self.budget.response, self.budget.response)
        counts = [len(turns) for turns in groups.values()]
        room = self.budget.total - 1 - len(language or ())
        # the longer of the two orders' frames, so that exchanging the responses cannot change a cut
        room -= max(self.frame(counts[0], *pair, language is not None).length for pair in (counts[1:], counts[:0:-1]))
        allowed = water_fill([min(pair) for pair in zip(lengths, limits, strict=True)], max(room, 0))
        if room < sum(counts) and room < sum(lengths):
            raise InputError(
                f"Budget too small: {self.budget.total} tokens in all leave {max(room, 0)} beside the frame of the "
                f"prompt, for {sum(counts)} turns. Raise the total budget to at least {self.budget.total + 64 - room}."
            )
        cut = {}
        for (name, turns), length, allowance in zip(groups.items(), lengths, allowed, strict=True):
            if allowance < length:
                groups[name] = self._cut_turns(row[name], turns, allowance)
            cut[name] = length - sum(map(len, groups[name]))
        return Fields(**groups, language=language, cut=cut)

    def _cut_turns(self, texts: list[str], turns: list[list[int]], allowance: int) -> list[list[int]]:
        allowed = water_fill([len(turn) for turn in turns], allowance)
        allowed[-1] = min(len(turns[-1]), allowed[-1] + allowance - sum(allowed))  # what is left goes to the last turn
        return [
            turn if len(turn) <= room else self._cut_middle(text, room)
            for text, turn, room in zip(texts, turns, allowed, strict=True)
        ]

    def _cut_middle(self, text: str, room: int) -> list[int]:
        """At most `room` tokens of a text: its head, a marker, its tail, never cut inside a character."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids, spans = encoding.ids, encoding.offsets
        marker = self._marker if room > 3 * len(self._marker) else []
        head = (room - len(marker) + 1) // 2
        tail = len(ids) - (room - len(marker) - head)
        while head > 0 and spans[head][0] < spans[head - 1][1]:
            head -= 1
        while tail < len(ids) and spans[tail][0] < spans[tail - 1][1]:
            tail += 1
        return ids[:head] + marker + ids[tail:]


def water_fill(lengths: list[int], total: int) -> list[int]:
    """
    Share `total` tokens among fields: the short keep all, the long are cut to one level.

    Equal lengths get equal shares whatever their place, so a remainder smaller than the number of fields stays unused.
    """
    if sum(lengths) <= total:
        return list(lengths)
    low, high = 0, max(lengths)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if sum(min(length, level) for length in lengths) <= total else (low, level - 1)
    return [min(length, low) for length in lengths]


def verdict_id(tokenizer, tail: str, word: str) -> int:
    """The token that `word` becomes after the text `tail`; an `InputError` where it is not exactly one more token."""
    before = tokenizer(tail, add_special_tokens=False)["input_ids"]
    after = tokenizer(tail + word, add_special_tokens=False)["input_ids"]
    if after[: len(before)] != before:
        raise InputError(
            f"Verdict {word!r} merges with the text before it ({tail[-20:]!r}) in {tokenizer.name_or_path}. "
            "End the prompt template on a line break or choose another word."
        )
    if len(after) != len(before) + 1:
        tokens = tokenizer.convert_ids_to_tokens(after[len(before) :])
        raise InputError(
            f"Verdict {word!r} is {len(tokens)} tokens {tokens} in {tokenizer.name_or_path}, but the loss looks at "
            "one answer token. Use a shorter verdict word, e.g. 'C' for a tie."
        )
    return after[-1]


def default_words(tokenizer, template: str, num_verdicts: int) -> list[str]:
    """A, B and tie, or C where the tokenizer has no single token for tie."""
    if num_verdicts == 2:
        return ["A", "B"]
    words = ["A", "B", "tie"]
    try:
        JudgePrompt(tokenizer, template, words, Budget()).verdict_ids  # noqa: B018
    except InputError:
        words[2] = "C"
        logger.warning("'tie' is not one token in %s: the verdict words are A, B, C.", tokenizer.name_or_path)
    return words


def without_special_tokens(tokenizer) -> Tokenizer:
    """
    A copy of the tokenizer that has never heard of its special tokens: it spells them out like any other text.

    Only byte-pair models are taken: special tokens stand in their vocabulary, but no merge leads to one.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        raise InputError(
            f"{tokenizer.name_or_path}: a {state['model']['type']} tokenizer; a judge needs byte-pair (BPE)."
        )
    added = state["added_tokens"]
    state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    plain = Tokenizer.from_str(json.dumps(state))
    for token in added:
        if token["special"] and token["id"] in plain.encode(token["content"], add_special_tokens=False).ids:
            raise InputError(
                f"{tokenizer.name_or_path}: plain text can become the control token {token['content']!r}."
            )
    return plain


def chat_text(tokenizer, system: str, user: str) -> str:
    """The family's chat template around one user turn; a family without a system role gets it in the user turn."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    if tokenizer.chat_template is None:
        logger.warning("%s has no chat template: a plain one that ends in 'Answer:' is used.", tokenizer.name_or_path)
        options["chat_template"] = PLAIN_CHAT
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    try:
        text = tokenizer.apply_chat_template(messages, **options)
        if system in text:
            return text
    except TemplateError:
        pass  # "System role not supported", in each family's own words
    return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)


def _slot(name: str, turn: int) -> str:
    return f"\ue000{name}{turn}\ue001"


def _compile(template: str):
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        compiled = environment.from_string(template)
    except TemplateError as error:
        raise InputError(f"The prompt template is not valid Jinja: {error}.") from error
    missing = [name for name in _BLOCKS if name not in compiled.blocks]
    if missing:
        raise InputError(f"The prompt template has no block {missing[0]!r}; it needs {' and '.join(_BLOCKS)}.")
    return compiled
