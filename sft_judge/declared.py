"""What a pipeline file says of battles that are not there yet, so that `run --plan` can count them."""

from dataclasses import dataclass
from pathlib import Path

from sft_judge.errors import InputError
from sft_judge.pipeline import check_known, fill


@dataclass(frozen=True)
class Declared:
    """A battles file that is not there yet: its rows, the mean tokens of one shown in one order, and its folds."""

    rows: int
    tokens: int
    folds: int = 0


def declared_of(pipeline: dict, file: Path) -> dict[Path, Declared]:
    """What a pipeline says of battles that are not there yet. Raises `InputError` where it is not whole numbers."""
    found = {}
    for name, counts in pipeline.get("declared", {}).items():
        check_known(file, f"key of declared {name}", counts, Declared.__dataclass_fields__)
        for key in ("rows", "tokens"):
            if not (isinstance(counts.get(key), int) and counts[key] > 0):
                raise InputError(f"{file}: declared {name} has {key} {counts.get(key)!r}, expected a number above 0.")
        found[Path(fill(file, "declared", name, pipeline.get("vars", {})))] = Declared(**counts)
    return found
