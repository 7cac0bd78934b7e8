"""Teachers' labels: proven out of fold, in the student's verdicts, several together, what a student makes of it."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_runs import (
    CLEAN,
    make_prompt,
    proof,
    soft_labels,
)
from sft_judge.core.errors import GateError, InputError
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.probs import read_probs, write_probs
from sft_judge.training.config import JudgeConfig
from sft_judge.training.dataset import verdict_dataset
from sft_judge.training.losses import distill_loss
from sft_judge.training.soft_labels import (
    MIN_LABEL,
    convert_verdicts,
    correct_label,
    floor_labels,
    read_teachers,
    tie_share,
)

unit, engine = pytest.mark.unit, pytest.mark.engine


def read(labels, battles, num=3, **options):
    return read_teachers([labels], battles, read_battles(battles), num, labels.parent / "student", **options)


# Proof


@unit
def test_labels_are_taken_when_each_fold_was_labelled_by_a_model_that_did_not_see_it(synthetic_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    teacher = read(labels, synthetic_file)
    assert len(teacher) == 120 and all(probs.sum() == pytest.approx(1) for probs in teacher.values())


@unit
@pytest.mark.parametrize(
    "folds, reason",
    [
        (None, "does not prove"),
        ({}, "does not prove"),
        (proof({0: [1, 2], 1: [0, 1], 2: [0, 1]}), "fold 1 was labelled by fold-1"),
        (proof({0: [1, 2], 1: [0, 2]}), "names no model that held out fold 2"),
    ],
)
def test_labels_that_are_not_proven_out_of_fold_are_refused(folds, reason, synthetic_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, folds)
    with pytest.raises(GateError, match=reason):
        read(labels, synthetic_file)
    assert len(read(labels, synthetic_file, allow_in_sample=True)) == 120


@unit
def test_labels_of_another_battles_file_are_refused(synthetic_file, synthetic_table, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    write_battles(tmp_path / "other.parquet", synthetic_table.slice(1))
    with pytest.raises(GateError, match="another battles file"):
        read(labels, tmp_path / "other.parquet")


@unit
def test_a_battle_without_a_fold_is_proven_only_where_nobody_can_have_trained_on_it(synthetic_table, tmp_path):
    rows = synthetic_table.to_pylist()
    for verdict, refused in (("a", True), (None, False)):
        table = battle_table([{**rows[0], "fold": None, "verdict": verdict}, *rows[1:]])
        write_battles(tmp_path / "battles.parquet", table)
        labels = soft_labels(tmp_path / "labels.parquet", tmp_path / "battles.parquet", CLEAN)
        if refused:
            with pytest.raises(GateError, match="battles without a fold"):
                read(labels, tmp_path / "battles.parquet")
        else:
            assert len(read(labels, tmp_path / "battles.parquet")) == 120


def external_verdicts(path, table, orders=("ab", "ba"), verdict="b"):
    rows = [f"{id_},{order},{verdict}\n" for id_ in table["id"].to_pylist() for order in orders]
    path.write_text("id,order,verdict\n" + "".join(rows))
    return path


@unit
@pytest.mark.parametrize("kind", ["verdicts", "probabilities"])
def test_labels_without_metadata_are_an_external_teachers_only_where_the_user_says_so(
    kind, synthetic_file, synthetic_table, tmp_path
):
    if kind == "verdicts":
        labels = external_verdicts(tmp_path / "gpt.csv", synthetic_table)
    else:
        labels = tmp_path / "gpt.csv"
        rows = "".join(f"{id_},0.2,0.7,0.1\n" for id_ in synthetic_table["id"].to_pylist())
        labels.write_text("id,p_a,p_b,p_tie\n" + rows)
    with pytest.raises(GateError, match="does not prove .* set external_teacher: true"):
        read(labels, synthetic_file)
    teacher = read(labels, synthetic_file, external_teacher=True)
    expected = [0, 1, 0] if kind == "verdicts" else [0.2, 0.7, 0.1]
    assert len(teacher) == 2 * synthetic_table.num_rows
    assert all(label[0] == pytest.approx(expected) for label in teacher.values())
    assert floor_labels(teacher)[1] == (len(teacher) if kind == "verdicts" else 0)


@unit
def test_an_external_teacher_takes_nothing_off_the_proof_of_our_own_judges(synthetic_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, proof({0: [1, 2], 1: [0, 1], 2: [0, 1]}))
    with pytest.raises(GateError, match="fold 1 was labelled by fold-1"):
        read(labels, synthetic_file, external_teacher=True)


@unit
def test_an_answer_that_could_not_be_read_is_no_label(synthetic_file, synthetic_table, tmp_path):
    labels = external_verdicts(tmp_path / "gpt.csv", synthetic_table, verdict="")
    with pytest.raises(InputError, match="answers could not be read"):
        read(labels, synthetic_file, external_teacher=True)


@unit
def test_the_same_labels_twice_are_refused(synthetic_file, synthetic_table, tmp_path):
    files = [soft_labels(tmp_path / f"{name}.parquet", synthetic_file, CLEAN) for name in "ab"]
    with pytest.raises(InputError, match="among the labels twice"):
        read_teachers(files, synthetic_file, synthetic_table, 3, tmp_path / "student")


# Verdicts


def drawn(rows: int, tie: bool, seed: int = 0) -> np.ndarray:
    probs = np.random.default_rng(seed).dirichlet(np.ones(3 if tie else 2), rows)
    return probs if tie else np.column_stack([probs, np.zeros(rows)])


@unit
def test_a_tie_is_dropped_or_split_for_a_student_of_two_verdicts():
    probs = drawn(30, tie=True)
    for (a, b, tie), dropped, split in zip(
        probs, convert_verdicts(probs, 2, "drop", 0.2), convert_verdicts(probs, 2, "split", 0.2), strict=True
    ):
        assert dropped == pytest.approx([a / (a + b), b / (a + b)])
        assert split == pytest.approx([a + tie / 2, b + tie / 2])
    assert convert_verdicts(np.array([[0.0, 0.0, 1.0]]), 2, "drop", 0.2).tolist() == [[0.5, 0.5]]


@given(st.integers(2, 60), st.floats(0.01, 0.6), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
@unit
def test_a_teacher_that_knows_no_ties_gives_as_many_as_there_are_most_where_it_is_undecided(rows, share, seed):
    probs = drawn(rows, tie=False, seed=seed)
    seen = convert_verdicts(probs, 3, "drop", share)
    assert seen.sum(axis=1) == pytest.approx(np.ones(rows)) and seen[:, 2].mean() == pytest.approx(share, abs=1e-6)
    np.testing.assert_allclose(seen[:, 0] * probs[:, 1], seen[:, 1] * probs[:, 0], atol=1e-12)  # the odds stay
    order = np.argsort(np.abs(probs[:, 0] - 0.5))
    assert (np.diff(seen[order, 2]) <= 1e-12).all()
    exchanged = convert_verdicts(probs[:, [1, 0, 2]], 3, "drop", share)
    np.testing.assert_allclose(exchanged, seen[:, [1, 0, 2]], atol=1e-9)


@unit
def test_the_share_of_ties_is_that_of_the_battles_with_a_verdict(synthetic_table):
    verdicts = synthetic_table["verdict"].to_pylist()
    assert tie_share(synthetic_table) == pytest.approx(verdicts.count("tie") / len(verdicts))
    none = synthetic_table.set_column(
        synthetic_table.column_names.index("verdict"), "verdict", pa.nulls(synthetic_table.num_rows, pa.string())
    )
    assert tie_share(none) == 0.0


# Other people's outputs


@unit
@pytest.mark.parametrize("columns", ["p", "logit", "winner_model"])
def test_a_table_of_somebody_elses_probabilities_or_logits_counts_for_both_orders(columns, tmp_path):
    probs = drawn(5, tie=True)
    names = {
        "p": ("p_a", "p_b", "p_tie"),
        "logit": ("logit_a", "logit_b", "logit_tie"),
        "winner_model": ("winner_model_a", "winner_model_b", "winner_tie"),
    }[columns]
    values = np.log(probs) + 3.0 if columns == "logit" else probs
    lines = [f"x{row},{','.join(map(repr, map(float, of_row)))}" for row, of_row in enumerate(values)]
    (tmp_path / "theirs.csv").write_text("\n".join([f"id,{','.join(names)}", *lines]) + "\n")
    seen = read_probs(tmp_path / "theirs.csv")
    assert seen.ids.tolist() == [f"x{row}" for row in range(5) for _ in "12"]
    assert seen.orders.tolist() == ["ab", "ba"] * 5 and seen.metadata == {}
    np.testing.assert_allclose(np.exp(seen.logp), np.repeat(probs, 2, axis=0), atol=1e-9)


@unit
def test_their_rows_must_be_numbers_that_sum_to_one(tmp_path):
    for text, reason in (("x,0.5,0.7", "sum to 1.2"), ("x,0.5,", "sum to nan"), ("x,-0.5,1.5", "below 0")):
        (tmp_path / "theirs.csv").write_text(f"id,p_a,p_b\n{text}\n")
        with pytest.raises(InputError, match=reason):
            read_probs(tmp_path / "theirs.csv")


# Corrections


@unit
def test_a_label_gives_way_only_to_teachers_that_are_surer_than_asked_of_another_verdict():
    labels = [np.array([[0.95, 0.03, 0.02], [0.90, 0.05, 0.05]]), np.array([[0.99, 0.01, 0.0], [0.92, 0.04, 0.04]])]
    mean = (labels[0].mean(axis=0) + labels[1].mean(axis=0)) / 2
    assert correct_label([0.0, 1.0, 0.0], labels, 0.93) == pytest.approx(mean.tolist())
    for hard, above in (([0.0, 1.0, 0.0], 0.95), ([0.0, 1.0, 0.0], 1.0), ([1.0, 0.0, 0.0], 0.5)):
        assert correct_label(hard, labels, above) is hard


@unit
@pytest.mark.parametrize(
    "hard, mean",
    [([0.5, 0.5, 0.0], [0.8, 0.1, 0.1]), ([0.0, 0.0, 1.0], [0.45, 0.45, 0.1]), ([0.1, 0.9, 0], [0.6, 0.4, 0])],
)
def test_exchanged_responses_exchange_the_corrected_label(hard, mean):
    one = correct_label(hard, [np.array([mean])], 0.4)
    other = correct_label([hard[1], hard[0], hard[2]], [np.array([[mean[1], mean[0], mean[2]]])], 0.4)
    assert [one[1], one[0], one[2]] == pytest.approx(other)


@unit
def test_corrected_labels_are_counted_and_stand_in_the_order_shown(bases, synthetic_table):
    prompt, rows = make_prompt(bases), synthetic_table.slice(0, 12)
    against = {"a": [0.01, 0.97, 0.02], "b": [0.97, 0.01, 0.02], "tie": [0.97, 0.01, 0.02]}
    teacher = {
        (row["id"], order): np.array([against[row["verdict"]] if place % 3 == 0 else [0.4, 0.3, 0.3]])
        for place, row in enumerate(rows.to_pylist())
        for order in ("ab", "ba")
    }
    dataset, counts = verdict_dataset(rows, prompt, "both", 0, teacher, correct_above=0.9)
    plain, none = verdict_dataset(rows, prompt, "both", 0, teacher)
    assert (counts["corrected"], none["corrected"]) == (4, 0)
    for place, row in enumerate(rows.to_pylist()):
        if place % 3:
            assert dataset[place]["targets"] == plain[place]["targets"]
        else:
            a, b, tie = against[row["verdict"]]
            np.testing.assert_allclose(dataset[place]["targets"], [[a, b, tie], [b, a, tie]], rtol=1e-6)


@pytest.mark.parametrize("num", [2, 3])
@unit
def test_a_teacher_that_is_certain_is_softened_by_the_temperature(num):
    """Against probabilities that the floor leaves alone, the loss counted out by hand."""
    teacher = {(str(row), "ab"): np.eye(num)[[row]] for row in range(num)}
    teacher["soft", "ab"] = np.full((1, num), 1 / num)
    seen, num_floored = floor_labels(teacher)
    assert num_floored == num and seen["soft", "ab"] is teacher["soft", "ab"]
    for row in range(num):
        (label,) = seen[str(row), "ab"]
        certain = np.full(num, MIN_LABEL)
        certain[row] = 1
        np.testing.assert_allclose(label, certain / certain.sum())
        softened = label**0.2 / (label**0.2).sum()
        expected = 25 * (np.log(num) + (softened * np.log(softened)).sum())
        loss = distill_loss(torch.zeros(1, num), torch.tensor(seen[str(row), "ab"]).float(), 5.0)
        assert loss.item() == pytest.approx(expected, rel=1e-4) and 0.1 < softened.min()
        assert loss < distill_loss(torch.zeros(1, num), torch.eye(num)[[row]], 5.0) / 2


@engine
def test_labels_that_were_floored_are_counted_said_and_recorded(train, synthetic_file, tmp_path, capsys):
    file = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    probs = read_probs(file)
    probs.logp[:7] = [0.0, -np.inf, -np.inf]
    write_probs(file, probs)
    judge = train(labels=file, max_steps=1)
    assert "; 7 teachers' labels had a probability below 0.0001, raised to it" in capsys.readouterr().out
    assert json.loads((judge / "judge.json").read_text())["training"]["labels_floored"] == 7


@unit
def test_the_share_of_ties_counts_soft_labels_for_a_teacher_that_knows_none(synthetic_table):
    row = {**synthetic_table.slice(0, 1).to_pylist()[0], "verdict": None}
    rows = [{**row, "id": str(tie), "soft_a": 1 - tie, "soft_b": 0.0, "soft_tie": tie} for tie in (0.1, 0.5)]
    assert tie_share(battle_table([*rows, row])) == pytest.approx(0.3)


# Settings


@unit
@pytest.mark.parametrize(
    "given, reason",
    [
        ({"labels": ["a", "b"], "distill_weight": [0.5, 0.3, 0.1]}, "distill_weight has 3 values for 2 files"),
        ({"labels": ["a", "b"], "distill_temperature": [1.0, 2.0, 3.0]}, "distill_temperature has 3 values for 2"),
        ({"labels": ["a", "b"], "distill_weight": [0.6, 0.5]}, "adds up to 1.1, expected at most 1"),
        ({"distill_weight": 1.5}, "distill_weight is 1.5, expected 0 to 1"),
        ({"distill_kind": "kll"}, "Did you mean 'kl'"),
        ({"correct_above": 0.3}, "correct_above is 0.3, expected 0.5 to 1"),
    ],
)
def test_settings_that_do_not_fit_the_teachers_are_refused(given, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        JudgeConfig(output_dir=str(tmp_path), **given)


@unit
def test_one_weight_is_dealt_out_among_the_teachers_and_one_temperature_is_of_all(tmp_path):
    config = JudgeConfig(output_dir=str(tmp_path), labels=["a", "b"], distill_weight=0.9, distill_temperature=3.0)
    assert (config.teacher_weights, config.teacher_temperatures) == ([0.45, 0.45], [3.0, 3.0])
    each = JudgeConfig(
        output_dir=str(tmp_path), labels=["a", "b"], distill_weight=[0.5, 0.2], distill_temperature=[1, 5]
    )
    assert (each.teacher_weights, each.teacher_temperatures) == ([0.5, 0.2], [1, 5])
