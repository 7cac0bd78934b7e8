"""
Lists in CSV cells: JSON, or as printed by Python and numpy, which is how pandas writes a column of lists.

numpy prints no commas (`['a' 'b']`), and Python would concatenate two adjacent texts. The commas are therefore
inserted before anything is parsed. Only literals are evaluated.
"""

import ast
import json
import re

MAX_CELL_CHARACTERS = 10_000_000
_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\"""", re.DOTALL)
_NO_COMMA = re.compile("([}\\])\\w\ue000])\\s+(?=[{\\[(\\w\ue000])")  # a gap between two values in numpy's form
_CHAT = re.compile(r"""\s*\[?\s*\{\s*['"](?:role|from)['"]\s*:""")


def read_json(text: str):
    """
    Parse a cell's JSON; numbers stay text.

    Raises:
        ValueError: the cell is not JSON.
        RecursionError: the JSON is nested too deeply.
    """
    return json.loads(text, strict=False, parse_float=str, parse_int=str, parse_constant=str)


def read_printed(text: str) -> list:
    """
    Parse a list as printed by Python or numpy.

    Raises:
        ValueError: the text is not such a list, or numpy left out its middle.
    """
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")) or len(text) > MAX_CELL_CHARACTERS:
        raise ValueError("it is not a list in brackets")
    texts, between = _TEXT.findall(stripped), _TEXT.split(stripped)
    if any("..." in part for part in between):
        raise ValueError("numpy left out its middle ('...')")
    if "" in between[1:-1]:
        raise ValueError("two texts have nothing between them")
    # replace each text by one letter, so that the pattern sees all that is between a text and its neighbours
    with_commas = _NO_COMMA.sub(r"\1,", "\ue000".join(between)).split("\ue000")
    try:
        value = ast.literal_eval("".join(a + b for a, b in zip(with_commas, [*texts, ""], strict=True)))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(value, list):
        raise ValueError("it is not a list")
    return value


def read_list(text: str) -> list | None:
    """Return the list in a cell, as JSON or printed, or None if there is none that can be parsed."""
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
    """Return True if a cell is in brackets or begins like a chat."""
    stripped = text.strip()
    return (stripped[:1] == "[" and stripped[-1:] == "]") or bool(_CHAT.match(text))


def looks_like_chat(text: str) -> bool:
    """Return True if a cell begins like a chat of messages, as JSON or printed."""
    return bool(_CHAT.match(text))
