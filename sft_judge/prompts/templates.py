"""
Render a prompt template and a family's chat template to the frame, the text around a battle's fields.

Templates are rendered with placeholders, never with a battle, so text of a battle cannot act as a template. A
judge.json from somebody else holds a template, so templates are restricted: text, blocks, `for`, `if` and values.
Names cannot be assigned, so that nothing grows from line to line, and the loops, the template and its output are
limited.
"""

import logging
import re
from collections.abc import Iterator
from datetime import date

from jinja2 import StrictUndefined, TemplateError, nodes, pass_context
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from sft_judge.core.errors import InputError
from sft_judge.core.resources import find_resource

logger = logging.getLogger(__name__)

# The template ends on a line break, because a space would merge with the verdict. The line break is in a Jinja value,
# because Jinja drops a line break at the end of a template.
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}{{ 'Answer:\\n' }}"
PLAIN_CHAT_NOTE = "a plain template that ends in 'Answer:' is used"
# The date for templates that print today's date, since a judge must read the same prompt every day. It is the default
# date of Llama's templates.
FIXED_DATE = date(2024, 7, 26)
BLOCKS = ("system", "user")
MAX_TEMPLATE_CHARACTERS = 30_000  # also the limit for the output of `join`
MAX_LOOP_TURNS = 3_000  # limit of the iterations of all loops; the default template needs one for each turn of a field
MAX_FRAME_CHARACTERS = 1_000_000
STATEMENTS = (nodes.Block, nodes.For, nodes.If, nodes.Output, nodes.TemplateData)
EXPRESSIONS = (
    *(nodes.Name, nodes.Const, nodes.List, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call),
    *(nodes.Filter, nodes.Keyword, nodes.Test, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Add, nodes.Sub),
)
FILTERS = ("default", "first", "join", "last", "length", "lower", "max", "min", "trim", "upper")
_SLOT = re.compile("\ue000(prompt|response_a|response_b|language)(\\d+)\ue001")
# exceptions that a faulty template can raise
_FAULTS = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError, SyntaxError),  # from too many nested brackets or loops
)


def read_template(name: str) -> str:
    """
    Read a prompt template by its name in prompts/ or from a file. Raise `InputError` if it is not found or not text.
    """
    file = find_resource("prompts", name)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a prompt template, it is not UTF-8 text ({error.reason}).") from error


class FrameTemplate:
    """
    Compile and render a prompt template.

    Args:
        text: text of the template.

    Raises:
        InputError: the text is not valid Jinja, uses something that is not allowed, or lacks a block.
    """

    def __init__(self, text: str):
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise InputError(
                f"The prompt template has {len(text):,} characters, expected at most {MAX_TEMPLATE_CHARACTERS:,}."
            )
        environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(_with_counted_loops(environment.parse(text)))
        except _FAULTS as error:
            raise InputError(f"The prompt template cannot be used: {error}.") from error
        self._is_steady = False  # set after a chat template gave the same text twice
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise InputError(f"The prompt template has no block {missing[0]!r}; it needs {' and '.join(BLOCKS)}.")

    def render(self, tokenizer, counts: dict[str, int], language: bool, words: list[str]):
        """
        Render the frame of battles with these numbers of turns.

        Args:
            tokenizer: the tokenizer with its chat template.
            counts: number of turns of each field.
            language: True if the language is shown.
            words: the verdict words.

        Returns:
            `(texts, slots)`: `texts[i]` is before `slots[i]`, and the last text is at the end. A slot is (field,
            turn).

        Raises:
            InputError: the template cannot be rendered, or a turn is not in it exactly once.
        """
        values = {name: [_slot(name, turn) for turn in range(count)] for name, count in counts.items()}
        values |= {"language": _slot("language", 0) if language else None, "words": words}
        try:
            system, user = (self._block(name, values) for name in BLOCKS)
        except _FAULTS as error:
            raise InputError(f"The prompt template cannot be rendered: {error}.") from error
        text = chat_text(tokenizer, system, user)
        if not self._is_steady and chat_text(tokenizer, system, user) != text:
            raise InputError(f"{tokenizer.name_or_path}: its chat template gives a different text each time.")
        self._is_steady = True
        slots = [(match[1], int(match[2])) for match in _SLOT.finditer(text)]
        for slot in [(name, turn) for name, count in counts.items() for turn in range(count)]:
            times = text.count(_slot(*slot))
            if times != 1:
                raise InputError(
                    f"The prompt template shows turn {slot[1] + 1} of {slot[0]!r} {times} times; "
                    "every turn of prompt, response_a and response_b must be in it exactly once."
                )
        return _SLOT.sub("\ue002", text).split("\ue002"), slots

    def user(self, battle: dict, words: list[str]) -> str:
        """
        Render the user's turn with the texts of one battle, for use within another template.

        Args:
            battle: the battle.
            words: the verdict words.
        """
        names = ("prompt", "response_a", "response_b")
        values = {name: battle[name] for name in names} | {"language": None, "words": words}
        return self._block("user", values)

    def _block(self, name: str, values: dict) -> str:
        context = self._template.new_context(values | {_TURNS: iter(range(MAX_LOOP_TURNS))})
        text = ""
        for chunk in self._template.blocks[name](context):
            text += chunk
            if len(text) > MAX_FRAME_CHARACTERS:
                raise SecurityError(f"its output has more than {MAX_FRAME_CHARACTERS:,} characters")
        return text.strip("\n")


def plain_chat(tokenizer) -> str:
    """Return a chat template for a model without one: plain text, after BOS if the tokenizer starts a text with it."""
    first = tokenizer("a")["input_ids"][:1]
    return ("{{ bos_token }}" if first == [tokenizer.bos_token_id] else "") + PLAIN_CHAT


def chat_text(tokenizer, system: str, user: str) -> str:
    """
    Render the family's chat template around one user turn.

    If a family has no system role, the system text becomes part of the user turn. If a template takes the content of a
    message as a list of parts, as multimodal models do, it gets a list. A template that asks for the date gets
    FIXED_DATE.

    Args:
        tokenizer: the tokenizer with its chat template.
        system: the system text.
        user: the user text.

    Raises:
        InputError: the template is not valid Jinja, raises an error, or omits a text.
    """
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    if tokenizer.chat_template is None:
        logger.warning("%s has no chat template: %s", tokenizer.name_or_path, PLAIN_CHAT_NOTE)
        options["chat_template"] = plain_chat(tokenizer)
    reasons = []
    for messages in _message_forms(system, user):
        try:
            text = tokenizer.apply_chat_template(messages, strftime_now=FIXED_DATE.strftime, **options)
        except _FAULTS as error:
            reasons.append(" ".join(f"{error}".split()) or type(error).__name__)
            continue
        if system.strip() in text and user.strip() in text:
            return text
        reasons.append("it omits the text of a message")
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template cannot be used ({reasons[0]}). Set chat_template_path to "
        "another template, a .jinja file."
    )


def _message_forms(system: str, user: str) -> Iterator[list[dict]]:
    """Yield messages with both texts in the forms that chat templates take, the most common first."""
    apart = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    together = [{"role": "user", "content": f"{system}\n\n{user}"}]
    for as_parts in (False, True):
        for messages in (apart, together):
            yield [
                {**message, "content": [{"type": "text", "text": message["content"]}]} if as_parts else message
                for message in messages
            ]


_TURNS = "turns left"  # not a valid name, so that a template cannot refer to it


class _Sandbox(ImmutableSandboxedEnvironment):
    """Restrict Jinja to FILTERS, to calls of `range`, and to `+` for numbers, so that a text cannot grow."""

    intercepted_binops = frozenset(["+"])

    def __init__(self, **options):
        super().__init__(**options)
        self.globals = {"range": self.globals["range"]}
        self.filters = {name: DEFAULT_FILTERS[name] for name in FILTERS} | {"join": _join, "counted": _counted}

    def is_safe_callable(self, obj) -> bool:
        """Return True only for `range`. Jinja calls this before each call."""
        return obj is self.globals["range"]

    def call_binop(self, context, operator, left, right):
        """Add numbers only. Jinja calls this for each `+`."""
        if not (isinstance(left, int) and isinstance(right, int)):
            raise SecurityError("'+' is for numbers in a prompt template; write texts next to each other instead")
        return super().call_binop(context, operator, left, right)


def _with_counted_loops(tree: nodes.Template) -> nodes.Template:
    """Make a template count its loop iterations. Raise `SecurityError` if it uses something that is not allowed."""
    loops = list(tree.find_all(nodes.For))
    for node in tree.find_all(nodes.Node):
        is_list_of_lists = isinstance(node, nodes.List) and node.find(nodes.List)
        is_lone_call = isinstance(node, nodes.Call) and all(node is not loop.iter for loop in loops)
        if not isinstance(node, STATEMENTS + EXPRESSIONS) or is_list_of_lists or is_lone_call:
            raise SecurityError(
                f"line {node.lineno} has {type(node).__name__}; it may hold text, blocks, if, for (also over a "
                f"range) and values with the filters {', '.join(FILTERS)}"
            )
    for loop in loops:
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
    return tree


@pass_context
def _counted(context, items) -> Iterator:
    for item in items:
        if next(context[_TURNS], None) is None:
            raise SecurityError(f"its loops take more than {MAX_LOOP_TURNS:,} iterations")
        yield item


def _join(items, separator: str = "") -> str:
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_TEMPLATE_CHARACTERS:
        raise SecurityError(f"the output of a join has more than {MAX_TEMPLATE_CHARACTERS:,} characters")
    return separator.join(texts)


def _slot(name: str, turn: int) -> str:
    return f"\ue000{name}{turn}\ue001"
