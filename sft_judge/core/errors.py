"""
Errors that are not bugs of this package.

`cli.py` prints each as one line on standard error and exits with its status. Any other exception is a bug and has a
traceback.
"""


class InputError(ValueError):
    """
    Error for bad input or settings; its message says what was seen, what was expected and what to do. Exit status 2.
    """

    exit_status = 2


class GateError(RuntimeError):
    """Error of a gate or guard: parity, collapse, in-sample labels. Exit status 3."""

    exit_status = 3


class WriteError(OSError):
    """Error of an output that cannot be written because the disk is full; raised by `NamedOutput`. Exit status 2."""

    exit_status = 2


def one_line(error: Exception) -> str:
    """Return a library's error message on one line without its full stop, cut at 200 characters."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def nearest(word: str, known, cutoff: float = 0.5) -> str:
    """
    Suggest the closest known word.

    Args:
        word: the unknown word.
        known: known words.
        cutoff: minimum similarity, from 0 to 1.

    Returns:
        `" Did you mean 'x'?"`, or an empty string if no word is close enough.
    """
    import difflib

    close = difflib.get_close_matches(word, [str(item) for item in known], n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
