"""
What can go wrong that is not our own fault.

`cli.py` turns each into one line on standard error and its exit status; anything else is a bug with a traceback.
"""


class InputError(ValueError):
    """Bad input or settings: the message says what was seen, what was expected and what to do. Exit status 2."""

    exit_status = 2


class GateError(RuntimeError):
    """A gate or guard refused: parity, collapse, in-sample labels. Exit status 3."""

    exit_status = 3


def one_line(error: Exception) -> str:
    """What an error of a library says, on one line and without its full stop, at most 200 characters of it."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def nearest(word: str, known, cutoff: float = 0.5) -> str:
    """`" Did you mean 'x'?"` for the closest of `known`, or an empty string where none is as close as `cutoff`."""
    import difflib

    close = difflib.get_close_matches(word, [str(item) for item in known], n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
