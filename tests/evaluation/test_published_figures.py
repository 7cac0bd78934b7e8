"""Published verdicts of GPT-4 through `evaluate`: the figures that others counted come out again."""

import csv
import json

import pytest

from sft_judge.cli import main
from sft_judge.data.battles import read_battles, write_battles

pytestmark = pytest.mark.unit


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def verdict_file(path, verdicts: list[tuple]):
    """Verdicts (id, order, verdict) as a file; without an order where it is None."""
    columns = [place for place in range(3) if verdicts[0][place] is not None]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([("id", "order", "verdict")[place] for place in columns])
        writer.writerows([row[place] for place in columns] for row in verdicts)
    return path


def evaluated(folder, verdicts, battles) -> dict:
    words = ["--verdicts", str(verdicts), "--battles", str(battles), "--output", str(folder / "report"), "--quiet"]
    assert main(["evaluate", *words]) == 0
    return json.loads((folder / "report" / "metrics.json").read_text())


def share(figure: dict) -> str:
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


@pytest.fixture
def mtbench(data_folder, tmp_path):
    """The rows with people's majority and GPT-4's verdict, and the same as battles."""
    source = data_folder / "mtbench_majority_q1to7.jsonl"
    assert main(["import", str(source), "--output", str(tmp_path / "battles.parquet")]) == 0
    return rows_of(source), tmp_path / "battles.parquet"


def test_gpt_4_agrees_with_the_majority_on_mt_bench_as_published(mtbench, tmp_path):
    rows, battles = mtbench
    verdicts = verdict_file(tmp_path / "gpt4.csv", [(row["id"], None, row["meta"]["judge_gpt4"]) for row in rows])
    metrics = evaluated(tmp_path, verdicts, battles)
    print("GPT-4 on MT-Bench:", share(metrics["accuracy"]), "of", metrics["n"])
    assert (metrics["n"], round(100 * metrics["accuracy"]["value"], 1)) == (1266, 66.7)
    assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] < metrics["accuracy"]["high"]
    assert round(100 * metrics["accuracy_without_ties"]["value"], 1) == 88.7
    assert sum(part["n"] for part in metrics["slices"]["category"].values()) == 1266 and "math" in str(
        metrics["slices"]
    )


def test_gpt_4_agrees_with_the_majority_where_neither_says_tie_as_published(mtbench, tmp_path):
    rows, battles = mtbench
    said = {row["id"]: row["meta"]["judge_gpt4"] for row in rows}
    table = read_battles(battles)
    kept = [
        said[id_] != "tie" and verdict != "tie"
        for id_, verdict in zip(table["id"].to_pylist(), table["verdict"].to_pylist(), strict=True)
    ]
    decided = table.filter(kept)
    write_battles(tmp_path / "decided.parquet", decided)
    verdicts = verdict_file(tmp_path / "gpt4.csv", [(id_, None, said[id_]) for id_ in decided["id"].to_pylist()])
    metrics = evaluated(tmp_path, verdicts, tmp_path / "decided.parquet")
    print("GPT-4 on MT-Bench without ties:", share(metrics["accuracy"]), "of", metrics["n"])
    assert (metrics["n"], round(100 * metrics["accuracy"]["value"], 1)) == (736, 88.7)
    assert metrics["accuracy"]["low"] < metrics["accuracy"]["value"] < metrics["accuracy"]["high"]


def test_gpt_4_gives_one_verdict_in_both_orders_on_the_japanese_set_as_often_as_published(data_folder, tmp_path):
    source = data_folder / "ja_vicuna_gpt4.jsonl"
    assert main(["import", str(source), "--output", str(tmp_path / "battles.parquet")]) == 0
    rows = rows_of(source)
    orders = [vote for row in rows for vote in zip((row["id"],) * 2, ("ab", "ba"), row["meta"]["votes"], strict=True)]
    metrics = evaluated(tmp_path, verdict_file(tmp_path / "gpt4.csv", orders), tmp_path / "battles.parquet")
    print("GPT-4's two orders in Japanese:", share(metrics["swap_agreement"]), "of", metrics["n"])
    assert sum(row["meta"]["order_consistent"] for row in rows) == 432
    assert metrics["n"] == 480 and metrics["swap_agreement"]["value"] == 432 / 480
    assert metrics["swap_agreement"]["low"] < 0.9 < metrics["swap_agreement"]["high"]
