"""The results table of real votes: the split, the figures and the answers, against second computations."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

pytestmark = pytest.mark.unit
sys.path.append(str(Path(__file__).parents[1] / "scripts"))  # as `python scripts/mtbench.py` has it
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
VERDICTS = ("a", "b", "tie")


@pytest.fixture
def votes(tmp_path):
    """Made-up votes of 56 questions, five battles each, in the published form."""
    draw, rows = np.random.default_rng(0), []
    for question in range(56):
        for number in range(5):
            longer = int(draw.integers(2))
            texts = ("short", "a much longer answer")
            rows.append(
                {
                    "id": f"{question}-{number}",
                    "prompt": [f"question {question}?"],
                    "response_a": [texts[longer]],
                    "response_b": [texts[1 - longer]],
                    "winner": VERDICTS[draw.choice(3, p=[0.2, 0.5, 0.3] if longer == 0 else [0.5, 0.2, 0.3])],
                    "meta": {
                        "question_id": question,
                        "category": CATEGORIES[question % 8],
                        "model_a": "x",
                        "model_b": "y",
                        "judge_gpt4": VERDICTS[draw.integers(3)],
                    },
                }
            )
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def table(tmp_path, monkeypatch):
    """mtbench_table.py with results in a folder of its own."""
    import mtbench_table

    for name in ("RESULTS", "PAGE", "README"):  # nothing of the project is written
        monkeypatch.setattr(mtbench_table, name, tmp_path / name.lower())
    (tmp_path / "results").mkdir()
    return mtbench_table


def write_result(table, arm: str, seed: int, orders: dict[str, np.ndarray], seconds: int = 60) -> None:
    """A result whose probabilities [2, 3] of each battle are `orders`."""
    given = {id_: dict(zip(("ab", "ba"), both.tolist(), strict=True)) for id_, both in orders.items()}
    found = {"arm": arm, "seed": seed, "seconds": {"train": seconds, "predict": 1}, "probabilities": given}
    (table.RESULTS / f"{arm}-{seed}.json".replace(" ", "-")).write_text(json.dumps(found))


def drawn_probs(votes, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {row.id: draw.dirichlet((2, 2, 2), 2) for row in votes_rows(votes)}


def votes_rows(votes):
    from types import SimpleNamespace

    rows = [json.loads(line) for line in Path(votes).read_text().splitlines()]
    return [SimpleNamespace(id=row["id"], winner=VERDICTS.index(row["winner"])) for row in rows]


def test_the_same_14_questions_are_held_out_one_or_two_of_each_category(votes):
    from mtbench import HELD_OUT, TRAINED_ON, folds_of

    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    folds = folds_of(rows)
    counts = Counter(CATEGORIES[question % 8] for question, fold in folds.items() if fold == HELD_OUT)
    assert counts.total() == 14 and set(counts.values()) == {1, 2} and len(counts) == 8
    assert folds_of(rows[::-1]) == folds
    halves = Counter(folds.values())
    assert abs(halves[TRAINED_ON[0]] - halves[TRAINED_ON[1]]) <= 8 and len(folds) == 56


def test_battles_are_folded_by_question_and_gpt4_speaks_in_both_orders(votes, tmp_path):
    import pyarrow.parquet as pq
    from mtbench import HELD_OUT, folds_of, prepare

    files = prepare(votes, tmp_path / "run")
    battles, train = pq.read_table(files["battles"]).to_pylist(), pq.read_table(files["train"]).to_pylist()
    folds = folds_of([json.loads(line) for line in votes.read_text().splitlines()])
    assert all(row["fold"] == folds[int(row["id"].split("-")[0])] for row in battles)
    assert [row["id"] for row in train] == [row["id"] for row in battles if row["fold"] != HELD_OUT]
    lines = [json.loads(line) for line in Path(files["gpt4"]).read_text().splitlines()]
    assert len(lines) == 2 * len(train) and {line["order"] for line in lines} == {"ab", "ba"}


def test_an_arms_figures_are_means_over_seeds_of_averaged_orders(votes, table):
    probs = [drawn_probs(votes, seed) for seed in (1, 2)]
    for seed, one in enumerate(probs):
        write_result(table, "hard labels, one order", seed, one)
    made = table.Votes(votes)
    found = made.figures(made.arms()["hard labels, one order"])
    held = {row["id"]: VERDICTS.index(row["winner"]) for row in made.rows}
    truth = list(held.values())
    losses = [log_loss(truth, np.array([one[id_].mean(axis=0) for id_ in held]), labels=[0, 1, 2]) for one in probs]
    assert found["log_loss"]["value"] == pytest.approx(np.mean(losses), abs=1e-9)
    assert found["log_loss"]["spread"] == pytest.approx(np.std(losses, ddof=1), abs=1e-9)
    assert found["log_loss"]["low"] < np.mean(losses) < found["log_loss"]["high"]
    agree = [np.mean([one[id_][0].argmax() == one[id_][1].argmax() for id_ in held]) for one in probs]
    assert found["swap_agreement"]["value"] == pytest.approx(np.mean(agree))


def test_length_alone_is_symmetric_and_beats_the_frequencies_where_length_decides(votes, table):
    made = table.Votes(votes)
    arms = made.baselines()
    length, constant = arms[table.LENGTH].probs[0], arms[table.FREQUENCIES].probs[0]
    longer_a = np.array([len(row["response_a"][0]) > 10 for row in made.rows])
    assert np.ptp(length[longer_a], axis=0).max() < 1e-9
    np.testing.assert_allclose(length[longer_a][0][[1, 0, 2]], length[~longer_a][0], atol=1e-3)
    assert made.losses(length).mean() < made.losses(constant).mean()


def test_differences_are_paired_over_the_seeds_that_both_have(votes, table):
    one, other = drawn_probs(votes, 1), drawn_probs(votes, 2)
    for seed in (0, 1):
        write_result(table, "hard labels, both orders", seed, one)
    for seed in (1, 2):
        write_result(table, "hard labels, one order", seed, other)
    write_result(table, "zero-shot", 0, other, 0)
    made = table.Votes(votes)
    arms = made.arms()
    ours = arms["hard labels, both orders"]
    for reference, seeds in (("hard labels, one order", 1), ("zero-shot", 2)):
        difference = made.difference(ours, arms[reference], made.losses)
        expected = made.losses(ours.probs[0]).mean() - made.losses(next(iter(arms[reference].probs.values()))).mean()
        assert difference.seeds == seeds and difference.value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "low", "high", "spread", "said"),
    [
        (-0.05, -0.08, -0.02, 0.01, "better"),
        (0.05, 0.02, 0.08, 0.01, "worse"),
        (-0.05, -0.12, 0.02, 0.01, "unresolved"),
        (-0.05, -0.08, -0.02, 0.03, "unresolved"),
        (-0.05, -0.08, -0.02, None, "better"),
    ],
)
def test_a_difference_within_its_interval_or_two_deviations_of_the_seeds_is_unresolved(
    value, low, high, spread, said, table
):
    difference = table.Mean(value, low, high, 0.01, 3, spread)
    assert table.verdict(difference, lower_is_better=True) == said


def test_the_answers_ask_of_arms_that_can_be_made(table):
    asked = {arm for pairs in table.QUESTIONS.values() for pair in pairs for arm in pair}
    assert asked <= set(table.ORDER)


def test_the_page_gets_a_row_for_each_arm_and_the_answers_that_can_be_given(
    votes, table, tmp_path, monkeypatch, capsys
):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- results: {name} -->\n<!-- end: {name} -->\n" for name in ("table", "answers")))
    monkeypatch.setattr(table, "PAGE", page)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: real votes -->\n<!-- end: real votes -->\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(sys, "argv", ["mtbench_table.py", "--votes", str(votes)])
    write_result(table, "hard labels, both orders", 0, drawn_probs(votes, 1))
    write_result(table, "zero-shot", 0, drawn_probs(votes, 2), 0)
    write_result(table, table.ZERO_SHOT_THERE, 0, drawn_probs(votes, 3), 0)
    table.main()
    text = page.read_text()
    for arm in (table.FREQUENCIES, table.LENGTH, "zero-shot", table.CALIBRATED, table.BOTH, table.GPT4):
        assert text.count(f"\n| {arm} |") == 1
    assert text.count(" minus ") == 4 and table.ZERO_SHOT_THERE not in text
    assert readme.read_text().count("\n| ") == 7  # a heading, its rule, and the arms of the short table


def test_the_tables_of_the_readme_and_the_page_are_those_of_the_stored_results(data_folder):
    import mtbench_table
    import results

    votes = mtbench_table.Votes(data_folder / "mtbench_majority_q1to7.jsonl")
    arms = mtbench_table.all_arms(votes)
    shown = {
        (mtbench_table.PAGE, "table"): mtbench_table.table(votes, arms),
        (mtbench_table.README, "real votes"): mtbench_table.short_table(votes, arms),
    }
    for (page, name), lines in shown.items():
        _, there = results.replaced(page.read_text(encoding="utf-8"), name, "")
        assert there == "\n".join([*lines, ""]), "python scripts/mtbench_table.py"
