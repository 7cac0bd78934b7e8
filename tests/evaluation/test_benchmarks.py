"""Benchmarks from files in their own formats: scores are what the benchmarks' own rules give, counted another way."""

import csv
import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.data.battles import read_battles
from sft_judge.evaluation.benchmarks import EXAMPLES

pytestmark = pytest.mark.unit
ROWS = 6  # in each part


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rewardbench_rows(parts) -> list[dict]:
    """Rows with the columns of allenai/reward-bench."""
    return [
        {"prompt": f"{part} {number}", "chosen": f"good {part} {number}", "chosen_model": "m", "rejected": "bad"}
        | {"rejected_model": "n", "subset": part, "id": 100 * place + number}
        for place, part in enumerate(parts)
        for number in range(ROWS)
    ]


def evaluated(folder, source, probabilities, *options):
    """Import a source, have `probabilities(battle)` ({order: [p_a, p_b, p_tie]}) judge it, evaluate it."""
    assert main(["import", str(source), "--output", str(folder / "battles.parquet")]) == 0
    battles = read_battles(folder / "battles.parquet").to_pylist()
    with open(folder / "probs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "order", "p_a", "p_b", "p_tie"])
        writer.writerows([row["id"], order, *p] for row in battles for order, p in probabilities(row).items())
    words = ["--probs", str(folder / "probs.csv"), "--battles", str(folder / "battles.parquet")]
    status = main(["evaluate", *words, "--output", str(folder / "report"), "--names", "probs", *options])
    metrics = json.loads((folder / "report" / "metrics.json").read_text()) if status == 0 else status
    return metrics, battles


def drawn_judge(seed):
    """A judge of three verdicts that draws, and remembers what it said of each battle (mean of the orders)."""
    rng, said = np.random.default_rng(seed), {}

    def judge(row):
        orders = {order: rng.dirichlet([1, 1, 0.5]) for order in ("ab", "ba")}
        said[row["id"]] = orders
        return orders

    return judge, said


@pytest.mark.parametrize("prior", [False, True])
def test_rewardbench_is_sections_of_weighted_parts_and_their_mean(prior, tmp_path, capsys):
    core = [part for section, parts in EXAMPLES.items() if section != "Prior Sets" for part in parts]
    parts = core + (list(EXAMPLES["Prior Sets"]) if prior else [])
    judge, said = drawn_judge(4)
    source = written(tmp_path / "filtered.jsonl", rewardbench_rows(parts))
    metrics, battles = evaluated(tmp_path, source, judge, "--benchmark", "rewardbench")
    hits = {part: [] for part in parts}
    for row in battles:
        a, b, _ = np.mean(list(said[row["id"]].values()), axis=0)
        hits[row["source"]].append((a > b) == (row["verdict"] == "a"))
    shares = {part: np.mean(found) for part, found in hits.items()}
    assert shares["xstest-should-refuse"] != shares["xstest-should-respond"] != shares["math-prm"]
    weights = {part: 1.0 for part in parts} | {  # the dataset card's counts
        **dict.fromkeys("alpacaeval-easy refusals-dangerous refusals-offensive llmbar-natural".split(), 100),
        **dict.fromkeys("alpacaeval-length alpacaeval-hard".split(), 95),
        **{"mt-bench-easy": 28, "mt-bench-med": 40, "mt-bench-hard": 37, "math-prm": 6 * 164, "donotanswer": 136},
        **{"llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47},
        **{"llmbar-adver-manual": 46, "xstest-should-refuse": 154, "xstest-should-respond": 250},
        **{part: 164 for part in parts if part.startswith("hep-")},
    }
    sections = {
        section: np.average([shares[part] for part in of], weights=[weights[part] for part in of])
        for section, of in EXAMPLES.items()
        if prior or section != "Prior Sets"
    }
    found = metrics["benchmark"]["judges"]["probs"]
    assert {name: figure["value"] for name, figure in found["sections"].items()} == pytest.approx(sections)
    expected = np.average(list(sections.values()), weights=[2, 2, 2, 2, 1][: len(sections)])
    assert found["score"]["value"] == pytest.approx(expected)
    assert found["score"]["low"] < expected < found["score"]["high"]
    for part in parts:
        assert found["parts"][part]["n"] == ROWS
        assert found["parts"][part]["accuracy"]["value"] == pytest.approx(shares[part])
    assert metrics["benchmark"]["missing"] == [] and metrics["benchmark"]["left_out"] == 0
    printed = capsys.readouterr().out
    assert "Benchmark rewardbench" in printed and f"{100 * expected:.1f} %" in printed
    assert f"math-prm ({ROWS})" in (tmp_path / "report" / "report.html").read_text()


def test_equal_probabilities_are_wrong_and_a_verdict_of_tie_goes_by_the_rest(tmp_path):
    """Three of four battles each: equal, a tie that leans to the chosen answer, right."""
    rows = rewardbench_rows(["math-prm"])[:3]

    def judge(row):
        number = int(row["prompt"][0].split()[1])
        chosen, rejected, tie = [(0.5, 0.5, 0), (0.2, 0.1, 0.7), (0.9, 0.1, 0)][number]
        return {"ab": [chosen, rejected, tie] if row["verdict"] == "a" else [rejected, chosen, tie]}

    metrics, _ = evaluated(tmp_path, written(tmp_path / "rb.jsonl", rows), judge, "--benchmark", "rewardbench")
    found = metrics["benchmark"]["judges"]["probs"]
    assert found["parts"]["math-prm"]["accuracy"]["value"] == pytest.approx(2 / 3) and found["ties"] == 1
    assert metrics["accuracy"]["value"] < 2 / 3 + 1e-9
    assert "alpacaeval-easy" in metrics["benchmark"]["missing"]


def test_other_battles_are_left_out_and_a_file_without_any_is_an_error(tmp_path, capsys):
    judge, _ = drawn_judge(2)
    rows = rewardbench_rows(["math-prm", "something else"])
    metrics, _ = evaluated(tmp_path, written(tmp_path / "rb.jsonl", rows), judge, "--benchmark", "rewardbench")
    assert metrics["benchmark"]["left_out"] == ROWS and list(metrics["benchmark"]["judges"]["probs"]["parts"]) == [
        "math-prm"
    ]
    capsys.readouterr()
    (tmp_path / "none").mkdir()
    written(tmp_path / "none" / "rb.jsonl", rewardbench_rows(["something else"]))
    status, _ = evaluated(tmp_path / "none", tmp_path / "none" / "rb.jsonl", judge, "--benchmark", "rewardbench")
    assert status == 2 and "No battle belongs to rewardbench" in capsys.readouterr().err


def test_judgebench_counts_the_two_orders_as_votes(tmp_path):
    sources = ["mmlu-pro-law", "mmlu-pro-math", "livebench-reasoning", "livebench-math", "livecodebench"]
    rows = [
        {"pair_id": f"{place}-{number}", "original_id": "1", "source": source, "question": f"q {place} {number}"}
        | {"response_model": "m", "response_A": "one", "response_B": "two", "label": ("A>B", "B>A")[number % 2]}
        for place, source in enumerate(sources)
        for number in range(ROWS + place)
    ]
    judge, said = drawn_judge(3)
    source = written(tmp_path / "gpt.jsonl", rows)
    metrics, battles = evaluated(tmp_path, source, judge, "--benchmark", "judgebench")
    assert [(row["id"], row["verdict"], row["source"]) for row in battles] == [
        (row["pair_id"], row["label"][0].lower(), row["source"]) for row in rows
    ]
    hits = {}
    for row in rows:
        counter = 0
        for p in said[row["pair_id"]].values():  # un-swapped
            decision = ("A>B", "B>A", "A=B")[int(np.argmax(p))]
            counter += {row["label"]: 1, "A=B": 0}.get(decision, -1)
        hits.setdefault(row["source"], []).append(counter > 0)
    sections = {"Knowledge": hits["mmlu-pro-law"] + hits["mmlu-pro-math"], "Reasoning": hits["livebench-reasoning"]}
    sections |= {"Math": hits["livebench-math"], "Coding": hits["livecodebench"]}
    found = metrics["benchmark"]["judges"]["probs"]
    expected = {section: np.mean(counted) for section, counted in sections.items()}
    assert {name: figure["value"] for name, figure in found["sections"].items()} == pytest.approx(expected)
    assert found["score"]["value"] == pytest.approx(np.mean(sum(hits.values(), [])))


def test_an_order_in_which_both_answers_are_as_probable_is_no_vote_for_either(tmp_path):
    rows = [
        {"pair_id": f"{number}", "original_id": "1", "source": "mmlu-pro-law", "question": f"q {number}"}
        | {"response_model": "m", "response_A": "one", "response_B": "two", "label": ("A>B", "B>A")[number % 2]}
        for number in range(ROWS)
    ]
    orders = {"ab": [0.4, 0.4, 0.2], "ba": [0.1, 0.2, 0.7]}  # neither, and a tie
    source = written(tmp_path / "gpt.jsonl", rows)
    metrics, _ = evaluated(tmp_path, source, lambda row: orders, "--benchmark", "judgebench")
    assert metrics["benchmark"]["judges"]["probs"]["score"]["value"] == 0


def test_a_judgebench_row_without_a_label_is_rejected(tmp_path, capsys):
    good = {"pair_id": "1", "source": "s", "question": "q", "response_A": "one", "response_B": "two", "label": "A>B"}
    written(tmp_path / "jb.jsonl", [good, {**good, "pair_id": "2", "label": "A=B"}])
    assert main(["import", str(tmp_path / "jb.jsonl"), "--output", str(tmp_path / "battles.parquet")]) == 0
    assert "2 rows in = 1 out + 1 rejected" in capsys.readouterr().out
    assert "'A=B', expected 'A>B' or 'B>A'" in (tmp_path / "battles.rejects.jsonl").read_text()
