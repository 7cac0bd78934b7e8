"""Rows of preference data and of votes, imported through the command line."""

import json

from sft_judge.cli import main
from sft_judge.data.battles import read_battles

USER, GOOD, BAD = "What is 2 + 2?", "Four.", "Five."
PREFERENCE = {"prompt": USER, "chosen": GOOD, "rejected": BAD}


def import_rows(tmp_path, rows, *options, name="rows.jsonl"):
    """Import rows written as JSONL through the command line; the battles [N] and the rejects."""
    source, output = tmp_path / name, tmp_path / "out" / "battles.parquet"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["import", str(source), "--output", str(output), *options]) == 0
    rejects = output.with_name("battles.rejects.jsonl")
    lines = rejects.read_text().splitlines() if rejects.exists() else []
    return read_battles(output).to_pylist(), [json.loads(line) for line in lines]


def refused(capsys, tmp_path, source, *said):
    assert main(["import", str(source), "--output", str(tmp_path / "out.parquet")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (tmp_path / "out.parquet").exists()
    for words in said:
        assert words in error


def votes(*verdicts, prompt="p", a="x", b="y"):
    row = {"prompt": [prompt], "response_a": [a], "response_b": [b]}
    return [{**row, "id": f"{prompt}{a}{place}", "verdict": verdict} for place, verdict in enumerate(verdicts)]
