"""Log messages of the package for the user of a command: plain lines, with warnings on standard error."""

import logging
import sys

from sft_judge.core.write_errors import name_outputs

ROOT_LOGGER = logging.getLogger("sft_judge")


class _Lines(logging.Handler):
    """
    Handler that prints each message; streams are looked up at each message, because a caller may have replaced them.
    """

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        prefix = "warning: " if is_warning else ""
        print(prefix + name_outputs(record.getMessage()), file=sys.stderr if is_warning else sys.stdout, flush=True)


def show_messages() -> None:
    """Print the package's messages from level INFO, once per process."""
    if not any(isinstance(handler, _Lines) for handler in ROOT_LOGGER.handlers):
        ROOT_LOGGER.addHandler(_Lines())
        ROOT_LOGGER.setLevel(logging.INFO)
        ROOT_LOGGER.propagate = False
