"""
Lists in cells of CSV: JSON, or as Python and numpy print them, which is what pandas writes for a column of lists.

numpy prints no commas (`['a' 'b']`), and Python would read two texts side by side as one: they are put in before
anything is read. Nothing is evaluated but literals.
"""

import ast
import json
import re

MAX_CELL_CHARACTERS = 10_000_000  # characters of one cell
_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\"""", re.DOTALL)
_NO_COMMA = re.compile("([}\\])\\w\ue000])\\s+(?=[{\\[(\\w\ue000])")  # numpy's, between two values
_CHAT = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|from)['"]\s*:""")


def read_json(text: str):
    """A cell's JSON; numbers keep their text. Raises `ValueError` or `RecursionError` where it is none."""
    return json.loads(text, strict=False, parse_float=str, parse_int=str, parse_constant=str)


def read_printed(text: str) -> list:
    """
    The list that Python or numpy printed.

    Raises:
        ValueError: the text is no such list, or numpy left out its middle.
    """
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")) or len(text) > MAX_CELL_CHARACTERS:
        raise ValueError("it is no list in brackets")
    texts, between = _TEXT.findall(stripped), _TEXT.split(stripped)
    if any("..." in part for part in between):
        raise ValueError("numpy left out its middle ('...')")
    if "" in between[1:-1]:
        raise ValueError("two texts stand side by side")
    # each text as one letter, so that what stands between it and its neighbours is seen whole
    with_commas = _NO_COMMA.sub(r"\1,", "\ue000".join(between)).split("\ue000")
    try:
        value = ast.literal_eval("".join(a + b for a, b in zip(with_commas, [*texts, ""], strict=True)))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(value, list):
        raise ValueError("it is no list")
    return value


def read_list(text: str) -> list | None:
    """The list that a cell holds, in JSON or printed; None where it holds none that can be read."""
    if text.lstrip()[:1] != "[":
        return None
    for read in (read_json, read_printed):
        try:
            value = read(text)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None


def looks_listed(text: str) -> bool:
    """Whether a cell stands in brackets, or begins as a chat does."""
    stripped = text.strip()
    return (stripped[:1] == "[" and stripped[-1:] == "]") or bool(_CHAT.match(text))


def looks_like_chat(text: str) -> bool:
    """Whether a cell begins as a chat of messages does, in JSON or printed."""
    return bool(_CHAT.match(text))
