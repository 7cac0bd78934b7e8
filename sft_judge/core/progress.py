"""Progress of long work: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class Progress:
    """
    Progress on standard error: `with Progress("label", total) as progress: progress.add(n)`.

    Args:
        label: name of the work.
        total: number of units, None if unknown.
        unit: name of the units.
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "rows"):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._bar = None

    def __enter__(self):
        self._start = self._last = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=self.total, desc=self.label, unit=f" {self.unit}", leave=True)
        return self

    def add(self, count: int = 1) -> None:
        """Add `count` finished units."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            rate = self.done / (self._last - self._start)
            left = f", {(self.total - self.done) / rate:.0f} s left" if self.total else ""
            of = f"/{self.total}" if self.total else ""
            tqdm.write(f"{self.label}: {self.done}{of} {self.unit}, {rate:.0f}/s{left}", file=sys.stderr)

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()
