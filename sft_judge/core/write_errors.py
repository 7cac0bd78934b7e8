"""
Errors of writing, which name the output and not the temporary path at which it is written.

If the disk is full, numpy, safetensors, tokenizers, pyarrow and torch.save each raise an error of their own, most of
them without a file name. Here they become one `WriteError`.
"""

import errno
import os
import re
from pathlib import Path

from sft_judge.core.errors import GateError, InputError, WriteError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# messages of libraries if a file cannot be written: numpy, safetensors, torch.save, tokenizers
_WRITING = re.compile(
    r"requested and \d+ written|while serializing: I/O error|inline_container|No space left on device"
)
_ASIDE = re.compile(r"\.(?P<name>.+?)(?P<kind>\.(shards|judged|votes|lock|old))?\.partial")
_NAMES: dict[str, str] = {}  # temporary paths in use, and the outputs that they become


class NamedOutput:
    """
    Name an output in the messages and errors of a `with` block, whichever library fails.

    A class rather than a generator, because tokenizers raises a bare `Exception`, which no `except` clause can single
    out. If the disk is full, the block raises `WriteError`; every other error stays what it is.

    Args:
        path: the output; None if the block has none.
        aside: temporary path that becomes the output, if the block writes to one.
    """

    def __init__(self, path: Path | str | None, aside: Path | None = None):
        self.path, self.aside = path, aside

    def __enter__(self):
        if self.aside is not None:
            _NAMES[str(self.aside)] = str(self.path)

    def __exit__(self, kind, error, traceback):
        try:
            if isinstance(error, InputError | GateError | WriteError):
                error.args = (name_outputs(str(error)),)
            elif error is not None and _is_full(error):
                self._raise_full(error)
            elif isinstance(error, OSError):
                self._name(error)
        finally:
            _NAMES.pop(str(self.aside), None)

    def _raise_full(self, error: Exception) -> None:
        # a copy names its source first
        named = getattr(error, "filename2", None) or getattr(error, "filename", None) or self.path
        where = "an output" if named is None else final_path(name_outputs(os.fsdecode(named)))
        reason = name_outputs(getattr(error, "strerror", None) or one_line(error))
        raise WriteError(
            f"{where}: could not be written, is the disk full? ({reason}). Free some space, and run the command again."
        ) from error

    def _name(self, error: OSError) -> None:
        if error.filename is not None:
            error.filename = final_path(name_outputs(os.fsdecode(error.filename)))
        elif self.aside is not None and str(self.aside) in str(error):  # pyarrow names the file in its text
            error.filename, error.strerror = str(self.path), name_outputs(str(error.strerror))


def name_outputs(text: str) -> str:
    """Return a message with the temporary paths in use replaced by their outputs."""
    for aside, path in _NAMES.items():
        text = text.replace(aside, path)
    return text


def final_path(path: str) -> str:
    """Return the output for which a temporary path is written, see `files.partial_path`; other paths are unchanged."""
    parts = Path(path).parts
    for place, part in enumerate(parts):
        if match := _ASIDE.fullmatch(part):
            below = () if match["kind"] else parts[place + 1 :]  # a folder of shards is never part of the output
            return final_path(str(Path(*parts[:place], match["name"], *below)))
    return path


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in FULL or bool(_WRITING.search(str(error)))
