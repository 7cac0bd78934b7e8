"""
Convert a battle and a token budget to token ids, in the same way for training, labelling, quantising and serving.

The frame (the text of the template around the fields) is rendered once for each *shape* of a battle: the number of
turns of each field, and whether a language is shown. The ids of the frame and of the fields are concatenated: each
field is encoded separately, as plain text. The answer position is therefore the length of the prompt, and is never
searched for in the text.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache

from tokenizers import Tokenizer

from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS
from sft_judge.data.preparing.language import stated_language, with_languages
from sft_judge.modeling.judge_spec import Budget, JudgeSpec
from sft_judge.prompts import escaping
from sft_judge.prompts.identity import check_prompt
from sft_judge.prompts.templates import FrameTemplate
from sft_judge.prompts.truncation import (
    Fields,
    fit_fields,
    has_room,
    last_turns,
    latest_turns_with_room,
    most_turns,
    shape_of,
)
from sft_judge.prompts.verdict_tokens import verdict_id

logger = logging.getLogger(__name__)

CUT_MARKER = " [...] "  # replaces the truncated middle of a turn
SHAPES = 1024  # maximum number of cached frames
MAX_TURNS = 256  # turns of a field that are shown; a template may loop over them several times
_ANY_SHAPE = (2, 2, 2, True)  # a shape that shows the template's tags for several turns and for a language


@dataclass(frozen=True)
class Frame:
    """Hold the text around the fields: `pieces[i]` is before `slots[i]`, and the last piece is after the last slot."""

    pieces: list[list[int]]
    slots: list[tuple[str, int]]
    texts: list[str]  # text of each piece; the verdict follows the last one
    length: int  # number of tokens of all pieces


class JudgePrompt:
    """
    Build the prompts of one judge.

    Args:
        tokenizer: tokenizer of the judge's model, a fast one.
        template: text of a prompt template.
        words: the verdict words, one token each.
        budget: maximum numbers of tokens.
        language: show the prompt's language to the judge.
        detect: detect the language if a battle does not state it; if False, such a battle is shown without a language.

    Raises:
        InputError: the tokenizer is not a fast one, or cannot encode every text; or the template is invalid.
    """

    def __init__(
        self,
        tokenizer,
        template: str,
        words: list[str],
        budget: Budget,
        language: bool = False,
        detect: bool = False,
    ):
        if not tokenizer.is_fast:
            raise InputError(f"{tokenizer.name_or_path}: a judge needs a fast tokenizer (tokenizer.json).")
        self.tokenizer = tokenizer
        self.template = template
        self.words = list(words)
        self.budget = budget
        self.language, self._detects = language, language and detect
        self._template = FrameTemplate(template)
        state = escaping.tokenizer_state(tokenizer)
        self.plain = escaping.plain_copy(tokenizer.name_or_path, state)
        self._unspelled = escaping.unspelled_characters(tokenizer.name_or_path, state)
        self.replaced = 0  # number of characters of fields that the vocabulary cannot encode
        self.shortened = 0  # number of battles whose earliest turns were left out
        self._normalize = self.plain.normalizer.normalize_str if escaping.changes_brackets(state) else None
        self._inside = escaping.inside_characters(self.plain, state)
        continued = escaping.without_prefix(state)
        self._continued = None if continued == state else Tokenizer.from_str(json.dumps(continued))
        self.marker = self.plain.encode(CUT_MARKER, add_special_tokens=False).ids
        self._frames: dict[tuple, Frame] = {}
        self._guards: dict[tuple, escaping.TagGuard] = {}

    @classmethod
    def of(cls, tokenizer, spec: JudgeSpec, check: bool = True) -> "JudgePrompt":
        """
        Build the prompt that judge.json describes.

        Args:
            tokenizer: tokenizer of the judge.
            spec: the judge's judge.json.
            check: raise `InputError` if this tokenizer, its chat template or the installed libraries produce another
                prompt than in training.
        """
        prompt = cls(tokenizer, spec.template, spec.verdict_words, spec.budget, spec.language, detect=True)
        if check:
            check_prompt(prompt, spec)
        return prompt

    @cached_property
    def verdict_ids(self) -> list[int]:
        """
        Return the token id of each verdict word at the answer position [K].

        Raises:
            InputError: a word is several tokens there, merges with the text before it, or has the same token as
                another.
        """
        ids = [verdict_id(self.tokenizer, self.tail, word) for word in self.words]
        if len(set(ids)) < len(ids):
            raise InputError(f"Verdict words {self.words} share a token in {self.tokenizer.name_or_path}: {ids}.")
        return ids

    @property
    def tail(self) -> str:
        """Return the text before the verdict."""
        return self.frame(1, 1, 1, False).texts[-1]

    def settings(self) -> dict:
        """Return everything that the token ids depend on, as plain values."""
        return {
            "tokenizer": escaping.tokenizer_state(self.tokenizer),
            "chat_template": self.tokenizer.chat_template,
            "special_tokens": {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()},
            "template": self.template,
            "words": self.words,
            "budget": asdict(self.budget),
            "language": self.language,
        }

    def fit(self, rows: list[dict]) -> list[Fields]:
        """
        Tokenize the fields of battles and truncate them to the budget. Truncation does not depend on which response is
        shown first. A battle with more turns than the budget has room for is shown without its earliest turns.

        Raises:
            InputError: the template leaves no room for one turn.
        """
        rows = self.with_languages(rows)
        shown = [self.shown(last_turns(row, MAX_TURNS)) for row in rows]
        texts = list({turn: None for fields in shown for turns in fields.values() for turn in turns})
        ids = dict(zip(texts, self._encode(texts), strict=True))
        groups = [{name: [ids[turn] for turn in fields[name]] for name in fields} for fields in shown]
        return [
            self._fit_groups(of_row)
            if most_turns(row) <= MAX_TURNS and has_room(of_row, self.budget, self._frame_length)
            else self._fit_latest(row, of_row)
            for row, of_row in zip(rows, groups, strict=True)
        ]

    def with_languages(self, rows: list[dict]) -> list[dict]:
        """
        Return the battles with a language each, if the judge shows it; a missing language is detected from the prompt.

        Raises:
            InputError: a language must be detected, and the `lang` extra is not installed.
        """
        return with_languages(rows) if self._detects else rows

    def shown(self, row: dict) -> dict[str, list[str]]:
        """Return the turns of each field as text with escaped tags. The language is a field with one turn or none."""
        fields = {name: row[name] for name in FIELDS}
        language = stated_language(row) if self.language else None
        fields["language"] = [language] if language else []
        if self._unspelled:
            fields = {name: list(map(self._spell, turns)) for name, turns in fields.items()}
        if self._normalize:
            fields = {name: list(map(self._normalize, turns)) for name, turns in fields.items()}
        escape = self.guard(shape_of(fields)).escape
        return {name: [escape(turn) for turn in turns] for name, turns in fields.items()}

    def _spell(self, text: str) -> str:
        """Replace each character that the vocabulary cannot encode by U+FFFD, and log the first one."""
        spelled, count = self._unspelled.subn(escaping.REPLACEMENT, text)
        if count and not self.replaced:
            logger.warning(
                f"{self.tokenizer.name_or_path}: its vocabulary cannot encode some characters, such as "
                f"{self._unspelled.search(text)[0]!r}; each is replaced by U+FFFD."
            )
        self.replaced += count
        return spelled

    def ids(self, fields: Fields, order: str = "ab") -> list[int]:
        """
        Return the token ids of a fitted battle. The verdict is the token that follows.

        Args:
            fields: the tokens of the battle.
            order: `ab` or `ba`, the order of the responses.
        """
        frame, shown = self.placed(fields, order)
        ids = list(frame.pieces[0])
        for (name, turn), piece in zip(frame.slots, frame.pieces[1:], strict=True):
            ids += shown[name][turn]
            ids += piece
        return ids

    def placed(self, fields: Fields, order: str) -> tuple[Frame, dict[str, list[list[int]]]]:
        """
        Return the frame of a fitted battle, and the content of its slots.

        Args:
            fields: the tokens of the battle.
            order: `ab` or `ba`, the order of the responses.
        """
        first, second = (fields.response_a, fields.response_b)[:: 1 if order == "ab" else -1]
        frame = self.frame(len(fields.prompt), len(first), len(second), fields.language is not None)
        return frame, {
            "prompt": fields.prompt,
            "response_a": first,
            "response_b": second,
            "language": [fields.language],
        }

    def encode(self, rows: list[dict], orders: tuple[str, ...]) -> list[list[list[int]]]:
        """
        Tokenize battles.

        Args:
            rows: the battles.
            orders: the orders to show.

        Returns:
            Prompt ids [rows][orders][tokens].
        """
        return [[self.ids(fields, order) for order in orders] for fields in self.fit(rows)]

    def frame(self, num_prompt: int, num_a: int, num_b: int, language: bool) -> Frame:
        """
        Return the frame of battles with these numbers of turns, rendered once and cached.

        Args:
            num_prompt: number of turns of the prompt.
            num_a: number of turns of response a.
            num_b: number of turns of response b.
            language: True if the language is shown.
        """
        key = (num_prompt, num_a, num_b, language)
        if key not in self._frames:
            if len(self._frames) == SHAPES:  # so that a client with battles of every shape cannot fill the memory
                self._frames.clear()
                self._guards.clear()
            counts = dict(zip(FIELDS, key[:3], strict=True))
            texts, slots = self._template.render(self.tokenizer, counts, language, self.words)
            if self._unspelled and self._unspelled.search("".join(texts)):
                character = self._unspelled.search("".join(texts))[0]
                raise InputError(
                    f"{self.tokenizer.name_or_path}: its vocabulary cannot encode {character!r} of the template."
                )
            pieces = [self._frame_ids(text, place > 0) for place, text in enumerate(texts)]
            self._frames[key] = Frame(pieces, slots, texts, sum(map(len, pieces)))
        return self._frames[key]

    def _frame_ids(self, text: str, continued: bool) -> list[int]:
        """
        Tokenize a piece of the frame. A piece after a field is encoded without the space that some tokenizers put
        before a text.
        """
        if continued and self._continued:
            return self._continued.encode(text, add_special_tokens=False).ids
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def guard(self, shape: tuple) -> escaping.TagGuard:
        """
        Return the `TagGuard` that escapes the template's tags in battles of this shape, the same for both orders.
        """
        if shape not in self._guards:
            swapped = (shape[0], shape[2], shape[1], shape[3])
            texts = [text for key in {shape, swapped, _ANY_SHAPE} for text in self.frame(*key).texts]
            contents = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
            names = frozenset().union(*(escaping.tag_names(text, contents) for text in texts))
            self._guards[shape] = _tag_guard(names)
        return self._guards[shape]

    def _frame_length(self, num_prompt: int, num_a: int, num_b: int, language: bool) -> int:
        # the longer frame of the two orders, so that truncation does not depend on which response is shown first
        return max(self.frame(num_prompt, *pair, language).length for pair in {(num_a, num_b), (num_b, num_a)})

    def _fit_groups(self, groups: dict[str, list[list[int]]]) -> Fields:
        return fit_fields(groups, self.budget, self._frame_length, self.marker, self._inside)

    def _fit_latest(self, row: dict, groups: dict[str, list[list[int]]]) -> Fields:
        """
        Fit the latest turns of a battle that has more turns than there is room for.

        Args:
            row: the battle.
            groups: tokens of its last MAX_TURNS turns.
        """
        turns = most_turns(row)
        left = latest_turns_with_room(groups, self.budget, self._frame_length)
        shown = self.shown(last_turns(row, left))  # fewer turns may have other tags
        fitted = self._fit_groups({name: self._encode(texts) for name, texts in shown.items()})
        for name in FIELDS:
            fitted.cut[name] += sum(map(len, self._encode(row[name][:-left])))
        if not self.shortened:
            logger.warning(
                f"battle {row.get('id') or 'without an id'}: {turns} turns are too many for total_budget "
                f"{self.budget.total}; its earliest {turns - left} are not shown. Other such battles are not named."
            )
        self.shortened += 1
        return replace(fitted, turns_left_out=turns - left)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # encode_batch_fast, which omits the offsets, was slower (tokenizers 0.23)
        return [encoding.ids for encoding in self.plain.encode_batch(texts, add_special_tokens=False)]


@lru_cache(maxsize=64)
def _tag_guard(names: frozenset[str]) -> escaping.TagGuard:
    return escaping.TagGuard(names)
