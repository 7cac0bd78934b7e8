"""Submissions in the shapes of both competitions, checked as a stranger would."""

import csv

import numpy as np
import pytest

from helpers.submissions import IDS, submit, write_judge
from sft_judge.data.probs import Probs, write_probs
from sft_judge.inference.calibrated import describe_judge
from sft_judge.inference.submission import LMSYS, WSDM
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
from sft_judge.modeling.temperature_scaling import apply_scaling

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lmsys.csv").write_text(
        "id,winner_model_a,winner_model_b,winner_tie\n" + "".join(f"{i},0.3,0.3,0.4\n" for i in IDS)
    )
    (tmp_path / "wsdm.csv").write_text("id,winner\n" + "".join(f"{i},model_a\n" for i in IDS))
    return tmp_path


def rows_of(folder):
    with open(folder / "out.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_lmsys_rows_keep_order_and_sum_to_one(folder):
    probs = write_judge(folder / "one.parquet")
    assert submit(folder, "lmsys") == 0
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == IDS and tuple(rows[0]) == LMSYS
    values = np.array([[float(row[name]) for name in LMSYS[1:]] for row in rows])
    np.testing.assert_allclose(values, [probs[id_] for id_ in IDS])
    assert (np.abs(values.sum(axis=1) - 1) <= 1e-9).all()


def test_columns_stand_in_the_order_of_the_sample(folder):
    probs = write_judge(folder / "one.parquet")
    (folder / "lmsys.csv").write_text("winner_tie,id,winner_model_b,winner_model_a\n0,20,0,1\n")
    assert submit(folder, "lmsys") == 0
    assert list(rows_of(folder)[0]) == ["winner_tie", "id", "winner_model_b", "winner_model_a"]
    assert float(rows_of(folder)[0]["winner_tie"]) == pytest.approx(probs["20"][2])


@pytest.mark.parametrize("num", [2, 3])
def test_wsdm_rows_name_the_likelier_response(folder, num):
    probs = write_judge(folder / "one.parquet", num=num)
    assert submit(folder, "wsdm") == 0
    rows = rows_of(folder)
    assert tuple(rows[0]) == WSDM
    assert [row["winner"] for row in rows] == ["model_b" if probs[i][1] > probs[i][0] else "model_a" for i in IDS]


def test_an_exact_tie_goes_to_model_a(folder):
    logp = np.log([[0.4, 0.4, 0.2]] * 4)
    write_probs(folder / "one.parquet", Probs(np.array(IDS, dtype=object), np.full(4, "ab"), logp))
    assert submit(folder, "wsdm") == 0
    assert {row["winner"] for row in rows_of(folder)} == {"model_a"}


def test_the_ensemble_is_the_weighted_mean_of_calibrated_judges(folder):
    (folder / "judge").mkdir()
    spec = JudgeSpec(["A", "B", "tie"], [1, 2, 3], "t", Budget(), calibration={"temperature": 2.0})
    write_spec(folder / "judge", spec)
    one = write_judge(folder / "one.parquet", metadata=describe_judge(folder / "judge", folder / "one.parquet"))
    two = write_judge(folder / "two.parquet", seed=1)
    for more, temperature in (([], 2.0), (["--uncalibrated"], 1.0)):
        assert submit(folder, "lmsys", ["one", "two"], "--weights", "3", "1", *more) == 0
        found = np.array([[float(row[name]) for name in LMSYS[1:]] for row in rows_of(folder)])
        wanted = [0.75 * apply_scaling(one[i], temperature) + 0.25 * two[i] for i in IDS]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_ids_that_the_sample_does_not_have_are_a_warning(folder, capsys):
    write_judge(folder / "one.parquet", ids=[*IDS, "more"])
    assert submit(folder, "lmsys") == 0
    assert "warning: 1 ids are not in the sample" in capsys.readouterr().out


BAD = {
    "missing ids": ("lmsys", {"ids": IDS[:2]}, [], "no probabilities for 2 of 4 ids"),
    "a judge without ties": ("lmsys", {"num": 2}, [], "infinite log loss"),
    "too many weights": ("lmsys", {}, ["--weights", "1", "1"], "2 weights for 1"),
    "weights of nothing": ("lmsys", {}, ["--weights", "0"], "at least one above 0"),
    "a negative weight": ("lmsys", {}, ["--weights", "-1"], "must be 0 or more"),
    "no sample": ("nothing", {}, [], "the competition's data"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_the_old_submission_stays(folder, capsys, case):
    sample, judge, more, said = BAD[case]
    write_judge(folder / "one.parquet", **judge)
    (folder / "out.csv").write_text("old")
    assert submit(folder, sample, ["one"], *more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert (folder / "out.csv").read_text() == "old"


SHAPES = {
    "Question ID,P_A,P_B,P_Tie": ["Question ID", "P_A", "P_B", "P_Tie"],
    "b,a,id": ["id", "a", "b"],
    "question_id,winner": ["question_id", "winner"],
    "id,preferred": ["id", "preferred"],
}


@pytest.mark.parametrize("header", SHAPES)
@pytest.mark.parametrize("words", [("model_a", "model_b"), ("A", "B", "tie"), ("response_a", "response_b")])
def test_a_sample_like_those_two_is_taken(folder, header, words):
    probs, roles = write_judge(folder / "one.parquet"), SHAPES[header]
    cell = {name: "0.3" for name in roles} | ({roles[1]: words[0]} if len(roles) == 2 else {})
    lines = [
        {**cell, roles[0]: id_} | ({roles[1]: words[-1]} if len(roles) == 2 and id_ == "20" else {}) for id_ in IDS
    ]
    columns = header.split(",")
    text = [header, *(",".join(line[name] for name in columns) for line in lines)]
    (folder / "any.csv").write_text("\n".join(text))
    assert submit(folder, "any") == 0
    rows = rows_of(folder)
    assert list(rows[0]) == columns and [row[roles[0]] for row in rows] == IDS
    for row in rows:
        said = probs[row[roles[0]]]
        if len(roles) == 2:
            assert row[roles[1]] == words[int(np.argmax(said[: len(words)]))]
        else:
            shares = said[: len(roles) - 1] / said[: len(roles) - 1].sum()
            np.testing.assert_allclose([float(row[name]) for name in roles[1:]], shares)
