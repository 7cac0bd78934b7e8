"""
Reference ratings of models from elsewhere, to compare a ranking with: CSV, JSON, or one of our ranking.json files.
"""

import csv
import json
import math
from pathlib import Path

from sft_judge.core.errors import InputError

EXPECTED = 'Expected CSV with the columns model and rating, JSON such as {"x": 1020.5}, or a ranking.json'


def read_reference(path: Path) -> dict[str, float]:
    """
    Read reference ratings as `{model: rating}`.

    Raises:
        InputError: the file is missing or holds no ratings, or a rating is not finite.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = _of_json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _of_csv(text)
        ratings = {str(name): float(rating) for name, rating in rows}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. {EXPECTED}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: no ratings ({type(error).__name__}: {error}). {EXPECTED}.") from error
    unusable = [name for name, rating in ratings.items() if not math.isfinite(rating)]
    if unusable or not ratings:
        what = f"the rating of {unusable[0]!r} is not finite" if unusable else "no ratings in it"
        raise InputError(f"{path}: {what}. {EXPECTED}.")
    return ratings


def _of_json(value) -> list[tuple]:
    if isinstance(value, list):
        value = {"models": value}
    if "models" not in value:
        return list(value.items())
    ratings = [row["rating"] for row in value["models"]]
    return [
        (row["model"], rating["value"] if isinstance(rating, dict) else rating)
        for row, rating in zip(value["models"], ratings, strict=True)
    ]


def _of_csv(text: str) -> list[tuple]:
    return [(row["model"], row["rating"]) for row in csv.DictReader(text.splitlines())]
