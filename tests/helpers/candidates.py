"""Answers to choose from, and files of them through `sft-judge best-of-n`."""

import json

from sft_judge.cli import main

ANSWERS = [
    "clouds gather slowly",
    "thanks and welcome",
    "shut up",
    "nonsense of the first kind",
    "I do not know",
    "42",
]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def best_of_n(candidates, model, output, *options) -> int:
    return main(["best-of-n", str(candidates), "--model", str(model), "--output", str(output), *options])


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
