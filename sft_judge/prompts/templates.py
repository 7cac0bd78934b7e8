"""
A prompt template and a family's chat template become the frame: the text around a battle's fields.

Rendering sees placeholders alone, never a battle, so no text of a battle is ever read as a template. Templates are run
in Jinja's sandbox, and one that does not end is stopped: judge.json of somebody else holds one.
"""

import logging
import re
import sys
from contextlib import contextmanager

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from sft_judge.core.errors import InputError
from sft_judge.core.resources import find_resource

logger = logging.getLogger(__name__)

# ends on a line break, as a space would merge with the verdict
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}Answer:\n"
BLOCKS = ("system", "user")
STEPS = 1_000_000  # lines of Python that a template may run; the default template with 30 turns runs 3,000
_SLOT = re.compile("\ue000(prompt|response_a|response_b|language)(\\d+)\ue001")
# what a faulty template makes Python raise
_FAULTS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


def read_template(name: str) -> str:
    """The text of a template: a name in prompts/ or a file. Raises `InputError` where it is none."""
    file = find_resource("prompts", name)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a prompt template, it is not UTF-8 text ({error.reason}).") from error


class FrameTemplate:
    """A prompt template, compiled. Raises `InputError` where it is no Jinja or lacks a block."""

    def __init__(self, text: str):
        environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(text)
        except _FAULTS as error:
            raise InputError(f"The prompt template is not valid Jinja: {error}.") from error
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise InputError(f"The prompt template has no block {missing[0]!r}; it needs {' and '.join(BLOCKS)}.")

    def render(self, tokenizer, counts: dict[str, int], language: bool, words: list[str]):
        """
        The frame of battles with so many turns: `(texts, slots)`, `texts[i]` before `slots[i]`, the last at the end.

        A slot is (field, turn). Raises `InputError` where a turn does not stand in the frame exactly once.
        """
        values = {name: [_slot(name, turn) for turn in range(count)] for name, count in counts.items()}
        values |= {"language": _slot("language", 0) if language else None, "words": words}
        try:
            with _stopped_after(STEPS):
                context = self._template.new_context(values)
                system, user = ("".join(self._template.blocks[name](context)).strip("\n") for name in BLOCKS)
        except _FAULTS as error:
            raise InputError(f"The prompt template cannot be rendered: {error}.") from error
        text = chat_text(tokenizer, system, user)
        slots = [(match[1], int(match[2])) for match in _SLOT.finditer(text)]
        for slot in [(name, turn) for name, count in counts.items() for turn in range(count)]:
            times = text.count(_slot(*slot))
            if times != 1:
                raise InputError(
                    f"The prompt template shows turn {slot[1] + 1} of {slot[0]!r} {times} times; "
                    "every turn of prompt, response_a and response_b must stand in it exactly once."
                )
        return _SLOT.sub("\ue002", text).split("\ue002"), slots

    def user(self, battle: dict, words: list[str]) -> str:
        """The user's turn with the texts of one battle in it, as text: for what becomes part of another template."""
        names = ("prompt", "response_a", "response_b")
        values = {name: battle[name] for name in names} | {"language": None, "words": words}
        context = self._template.new_context(values)
        return "".join(self._template.blocks["user"](context)).strip("\n")


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


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without `**` and the repetition of text or lists: one such operation may never end, or fill the memory."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context, operator, left, right):
        if operator == "**" or not all(isinstance(value, int | float) for value in (left, right)):
            raise SecurityError(f"{operator!r} is for products of numbers in a prompt template")
        return super().call_binop(context, operator, left, right)


@contextmanager
def _stopped_after(steps: int):
    """Raise `SecurityError` once so many lines of Python have run: the only way to stop a loop without a thread."""
    left = steps

    def count(frame, event, argument):
        nonlocal left
        left -= 1
        if left < 0:
            raise SecurityError(f"it ran for more than {steps:,} steps; is there a loop that hardly ends?")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _slot(name: str, turn: int) -> str:
    return f"\ue000{name}{turn}\ue001"
