"""
A prompt template and a family's chat template become the frame: the text around a battle's fields.

Rendering sees placeholders alone, never a battle, so no text of a battle is ever read as a template. A judge.json of
somebody else holds a template, so one may hold little: text, blocks, `for`, `if` and values. No name gets a value of
its own, so nothing grows from line to line, and loops, the template and what it gives have limits.
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

# ends on a line break, as a space would merge with the verdict; as a value, since Jinja drops one at the end of a text
PLAIN_CHAT = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}{{ 'Answer:\\n' }}"
PLAIN_CHAT_NOTE = "a plain one that ends in 'Answer:' is used"
# What a template that prints today's date is given: a judge must read the same prompt every day. It is the date that
# Llama's templates print where they are given none.
FIXED_DATE = date(2024, 7, 26)
BLOCKS = ("system", "user")
MAX_TEMPLATE_CHARACTERS = 30_000  # also of what its `join` gives
MAX_LOOP_TURNS = 3_000  # of all loops together; the default template takes one for each turn of a field
MAX_FRAME_CHARACTERS = 1_000_000
STATEMENTS = (nodes.Block, nodes.For, nodes.If, nodes.Output, nodes.TemplateData)
EXPRESSIONS = (
    *(nodes.Name, nodes.Const, nodes.List, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call),
    *(nodes.Filter, nodes.Keyword, nodes.Test, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Add, nodes.Sub),
)
FILTERS = ("default", "first", "join", "last", "length", "lower", "max", "min", "trim", "upper")
_SLOT = re.compile("\ue000(prompt|response_a|response_b|language)(\\d+)\ue001")
# what a faulty template makes Python raise
_FAULTS = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError, SyntaxError),  # of too many brackets or loops in one another
)


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
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise InputError(f"The prompt template has {len(text):,} characters, at most {MAX_TEMPLATE_CHARACTERS:,}.")
        environment = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(_with_counted_loops(environment.parse(text)))
        except _FAULTS as error:
            raise InputError(f"The prompt template cannot be used: {error}.") from error
        self._is_steady = False  # known once a chat template was rendered twice
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
            system, user = (self._block(name, values) for name in BLOCKS)
        except _FAULTS as error:
            raise InputError(f"The prompt template cannot be rendered: {error}.") from error
        text = chat_text(tokenizer, system, user)
        if not self._is_steady and chat_text(tokenizer, system, user) != text:
            raise InputError(f"{tokenizer.name_or_path}: its chat template gives another text each time.")
        self._is_steady = True
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
        return self._block("user", values)

    def _block(self, name: str, values: dict) -> str:
        context = self._template.new_context(values | {_TURNS: iter(range(MAX_LOOP_TURNS))})
        text = ""
        for chunk in self._template.blocks[name](context):
            text += chunk
            if len(text) > MAX_FRAME_CHARACTERS:
                raise SecurityError(f"it gives more than {MAX_FRAME_CHARACTERS:,} characters")
        return text.strip("\n")


def plain_chat(tokenizer) -> str:
    """The chat template of a model that has none: text alone, after BOS where the tokenizer begins a text with it."""
    first = tokenizer("a")["input_ids"][:1]
    return ("{{ bos_token }}" if first == [tokenizer.bos_token_id] else "") + PLAIN_CHAT


def chat_text(tokenizer, system: str, user: str) -> str:
    """
    The family's chat template around one user turn.

    A family without a system role gets that text in the user turn; one whose template takes the content of a message
    as a list of parts, as those of image models do, gets it as such. One that asks for the date gets FIXED_DATE.

    Raises:
        InputError: the template is no Jinja, raises an error, or leaves out what it is given.
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
        reasons.append("it leaves out the text of a message")
    raise InputError(
        f"{tokenizer.name_or_path}: its chat template cannot be used ({reasons[0]}). Give another one as "
        "chat_template_path, a .jinja file."
    )


def _message_forms(system: str, user: str) -> Iterator[list[dict]]:
    """The messages that say both texts, in the forms that chat templates take; the commonest first."""
    apart = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    together = [{"role": "user", "content": f"{system}\n\n{user}"}]
    for as_parts in (False, True):
        for messages in (apart, together):
            yield [
                {**message, "content": [{"type": "text", "text": message["content"]}]} if as_parts else message
                for message in messages
            ]


_TURNS = "turns left"  # no name that a template could write


class _Sandbox(ImmutableSandboxedEnvironment):
    """With FILTERS alone; calls are of `range`, and `+` is for numbers: a text must not grow."""

    intercepted_binops = frozenset(["+"])

    def __init__(self, **options):
        super().__init__(**options)
        self.globals = {"range": self.globals["range"]}
        self.filters = {name: DEFAULT_FILTERS[name] for name in FILTERS} | {"join": _join, "counted": _counted}

    def is_safe_callable(self, obj) -> bool:
        """As Jinja asks before each call."""
        return obj is self.globals["range"]

    def call_binop(self, context, operator, left, right):
        """As Jinja does each `+`."""
        if not (isinstance(left, int) and isinstance(right, int)):
            raise SecurityError("'+' is for numbers in a prompt template; text stands beside text")
        return super().call_binop(context, operator, left, right)


def _with_counted_loops(tree: nodes.Template) -> nodes.Template:
    """Have the loops counted. Raises `SecurityError` for what a prompt template may not hold."""
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
            raise SecurityError(f"its loops take more than {MAX_LOOP_TURNS:,} turns")
        yield item


def _join(items, separator: str = "") -> str:
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_TEMPLATE_CHARACTERS:
        raise SecurityError(f"a join gives more than {MAX_TEMPLATE_CHARACTERS:,} characters")
    return separator.join(texts)


def _slot(name: str, turn: int) -> str:
    return f"\ue000{name}{turn}\ue001"
