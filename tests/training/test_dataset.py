"""Battles to the trainer's rows: what a run sees, in which order, and what it learns from."""

import numpy as np
import pyarrow as pa
import pytest

from helpers.training_runs import make_prompt
from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.ties import tie_shares, verdicts_needed
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.training.dataset import (
    hard_targets,
    mix_sources,
    shown_orders,
    split_folds,
    verdict_dataset,
    verdict_shares,
)
from sft_judge.training.preparation import describe_counts
from sft_judge.training.samplers import BalancedSampler
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine


@unit
def test_training_leaves_out_both_folds_and_evaluates_on_one(synthetic_table):
    train_rows, eval_rows = split_folds(synthetic_table, 0, 2)
    assert set(train_rows["fold"].to_pylist()) == {1} and set(eval_rows["fold"].to_pylist()) == {0}
    everything, none = split_folds(synthetic_table, None, None)
    assert everything is synthetic_table and none is None
    assert split_folds(synthetic_table, None, 1)[1] is None


@unit
def test_the_shares_of_the_verdicts_are_counted_from_votes_and_soft_labels_and_none_is_zero(synthetic_table):
    verdicts = synthetic_table["verdict"].to_pylist()
    counts = np.array([verdicts.count(name) for name in ("a", "b", "tie")])
    np.testing.assert_allclose(verdict_shares(synthetic_table, 3), (counts + 1) / (len(verdicts) + 3))
    row = {**synthetic_table.slice(0, 1).to_pylist()[0], "verdict": None}
    soft = battle_table([{**row, "soft_a": 0.75, "soft_b": 0.25, "soft_tie": 0.0}])
    np.testing.assert_allclose(verdict_shares(soft, 3), [1.75 / 4, 1.25 / 4, 1 / 4])
    assert verdict_shares(battle_table([row]), 3) is None


@unit
def test_a_row_gets_the_teachers_label_of_the_order_it_is_shown_in(bases, synthetic_table):
    prompt = make_prompt(bases)
    rows = synthetic_table.slice(0, 8)
    rng = np.random.default_rng(0)
    keys = [(name, order) for name in rows["id"].to_pylist() for order in ("ab", "ba")]
    teacher = {key: rng.dirichlet(np.ones(3), 2) for key in keys}  # of two teachers
    for policy in ("both", "random", "none"):
        examples = verdict_dataset(rows, prompt, policy, 5, teacher)[0]
        shown = shown_orders(policy, rows["id"].to_pylist(), 5)
        for row, example, orders in zip(rows.to_pylist(), examples, shown, strict=True):
            for labels, ids, order in zip(example["teacher"], example["input_ids"], orders, strict=True):
                for label, (a, b, tie) in zip(labels, teacher[row["id"], order], strict=True):
                    np.testing.assert_allclose(label, (a, b, tie) if order == "ab" else (b, a, tie), rtol=1e-6)
                assert ids[:-1] == prompt.encode([row], (order,))[0][0]
    assert {orders for orders in shown_orders("random", ["x"] * 50, 1)} == {("ab",), ("ba",)}


@unit
def test_a_row_without_a_verdict_learns_from_the_teacher_alone_or_is_left_out(bases, synthetic_table):
    rows = [{**row, "verdict": None} for row in synthetic_table.slice(0, 3).to_pylist()]
    rows[0]["verdict"] = "a"
    prompt = make_prompt(bases)
    dataset, counts = verdict_dataset(battle_table(rows), prompt, "both", 0)
    assert (len(dataset), counts["unlabelled"]) == (1, 2)
    teacher = {
        (row["id"], order): np.array([[0.1, 0.8, 0.1], [0.3, 0.6, 0.1]]) for row in rows for order in ("ab", "ba")
    }
    dataset, counts = verdict_dataset(battle_table(rows), prompt, "both", 0, teacher)
    assert (len(dataset), counts["unlabelled"]) == (3, 0)
    np.testing.assert_allclose(dataset[1]["targets"], [[0.2, 0.7, 0.1], [0.7, 0.2, 0.1]], rtol=1e-6)
    assert [ids[-1] for ids in dataset[1]["input_ids"]] == [prompt.verdict_ids[1], prompt.verdict_ids[0]]


@unit
@pytest.mark.parametrize("soft", [{"soft_a": 0.5, "soft_b": 0.5}, {"soft_a": 3.0, "soft_b": 1.0, "soft_tie": 4.0}])
def test_soft_labels_are_normalised_over_the_judges_verdicts(soft, bases, synthetic_table):
    rows = battle_table([{**synthetic_table.slice(0, 1).to_pylist()[0], "verdict": None, **soft}])
    for words in (["A", "B"], ["A", "B", "tie"]):
        prompt = make_prompt(bases, words)
        values = np.array([soft["soft_a"], soft["soft_b"], soft.get("soft_tie", 0.0)])[: len(words)]
        values /= values.sum()
        np.testing.assert_allclose(verdict_dataset(rows, prompt, "none", 0)[0][0]["targets"], [values], rtol=1e-6)


def with_shares(rows, tie: float, verdict=None):
    """Battles whose soft labels give a tie this share."""
    shares = {"soft_a": 0.75 * (1 - tie), "soft_b": 0.25 * (1 - tie), "soft_tie": tie}
    return [{**row, "verdict": verdict, **shares} for row in rows]


@unit
def test_a_judge_has_three_verdicts_where_any_label_holds_a_share_of_a_tie(synthetic_table):
    rows = [row for row in synthetic_table.to_pylist() if row["verdict"] != "tie"]
    for changed, needed in (
        (rows, 2),
        ([*rows, {**rows[0], "verdict": "tie"}], 3),
        ([*rows, *with_shares(rows[:1], 0.4)], 3),
        (with_shares(rows, 1.0, verdict="a"), 3),
        (with_shares(rows, 0.0), 2),
        (with_shares(rows, 0.0, verdict="tie"), 3),  # even votes, which people call a tie
        ([{**row, "verdict": None} for row in rows], 2),
    ):
        assert verdicts_needed(battle_table(changed)) == needed


@unit
def test_the_share_of_a_tie_is_that_of_the_label_a_battle_is_trained_on(synthetic_table):
    rows = synthetic_table.slice(0, 9).to_pylist()
    rows[3:6] = with_shares(rows[3:6], 0.4, verdict="tie")
    rows[6] |= {"verdict": None}
    expected = [np.nan if (target := hard_targets(row, 3)) is None else target[2] for row in rows]
    np.testing.assert_allclose(tie_shares(battle_table(rows)), expected)
    assert {0.4, 0.0} <= set(np.round(expected, 9)) and np.isnan(expected).sum() == 1


@unit
def test_shares_of_ties_that_two_verdicts_drop_are_counted_and_said(bases, synthetic_table):
    rows = [row for row in synthetic_table.to_pylist() if row["verdict"] != "tie"][:12]
    table = battle_table(with_shares(rows[:6], 0.4) + rows[6:9] + [{**row, "verdict": None} for row in rows[9:]])
    counts = verdict_dataset(table, make_prompt(bases, ["A", "B"]), "none", 0)[1]
    assert counts["tie_shares_dropped"] == {"battles": 6, "share": pytest.approx(6 * 0.4 / 9)}
    assert "the share of ties dropped from 6 labels, 26.7% of all labels' mass" in describe_counts(counts, 400)
    kept = verdict_dataset(table, make_prompt(bases), "none", 0)[1]
    assert kept["tie_shares_dropped"]["battles"] == 0 and "dropped" not in describe_counts(kept, 400)


@unit
@pytest.mark.parametrize(
    "label", [{"verdict": "tie"}, {"verdict": None, "soft_a": 0.0, "soft_b": 0.0, "soft_tie": 1.0}]
)
def test_a_tie_for_a_judge_of_two_verdicts_is_an_error_with_both_ways_out(label, bases, synthetic_table):
    rows = battle_table([{**synthetic_table.slice(0, 1).to_pylist()[0], **label}])
    with pytest.raises(InputError, match="is a tie, but .*num_verdicts: 3, or drop or split"):
        verdict_dataset(rows, make_prompt(bases, ["A", "B"]), "none", 0)


@engine
def test_ties_in_the_evaluated_fold_alone_are_an_error_that_num_verdicts_mends(
    train, command, synthetic_table, tmp_path, capsys
):
    rows = [{**row, "fold": int(row["verdict"] != "tie")} for row in synthetic_table.to_pylist()]
    write_battles(tmp_path / "ties.parquet", battle_table(rows))
    settings = {"battles": tmp_path / "ties.parquet", "fold": 0, "max_steps": 1}
    assert main(command(**settings)) == 2
    assert "Train with num_verdicts: 3" in capsys.readouterr().err
    assert read_spec(train(num_verdicts=3, on_collapse="warn", **settings)).num_verdicts == 3


@unit
def test_what_the_budget_cut_is_counted_by_field(bases, synthetic_table):
    prompt = make_prompt(bases, budget=(8, 12, 200))
    counts = verdict_dataset(synthetic_table, prompt, "both", 0)[1]
    whole = make_prompt(bases, budget=(9999, 9999, 30_000)).fit(synthetic_table.to_pylist())
    cut = prompt.fit(synthetic_table.to_pylist())
    for name in ("prompt", "response_a", "response_b"):
        lost = [
            sum(map(len, getattr(before, name))) - sum(map(len, getattr(after, name)))
            for before, after in zip(whole, cut, strict=True)
        ]
        assert counts["cut"][name] == {"battles": sum(tokens > 0 for tokens in lost), "tokens": sum(lost)}
    assert counts["cut"]["response_a"]["battles"] > 0
    assert f"response_a {counts['cut']['response_a']['battles']} (" in describe_counts(counts, 200)


# Order and mix


@unit
def test_batches_of_like_lengths_keep_the_verdicts_in_proportion_over_windows():
    rng = np.random.default_rng(0)
    verdicts, lengths = rng.choice(3, 5000, p=[0.4, 0.4, 0.2]), rng.lognormal(6, 0.8, 5000).astype(int)
    plain = BalancedSampler(verdicts, np.zeros(5000, int), lengths, 0, None)
    grouped = BalancedSampler(verdicts, np.zeros(5000, int), lengths, 0, 8)
    order = np.array(list(grouped))
    assert sorted(order) == list(range(5000)) and list(order) != list(plain)
    shares = np.bincount(verdicts) / 5000
    for end in range(1600, 5001, 1600):
        assert np.abs(np.bincount(verdicts[order[:end]], minlength=3) - shares * end).max() <= 1
    padded = {name: padding(lengths[list(sampler)]) for name, sampler in (("plain", plain), ("grouped", grouped))}
    assert padded["grouped"] < 0.05 < padded["plain"]
    grouped.set_epoch(1)
    assert list(grouped) != order.tolist()


def padding(lengths: np.ndarray, size: int = 8) -> float:
    """The share of a batch's tokens that are padding."""
    batches = lengths.reshape(-1, size)
    return 1 - batches.sum() / (batches.max(axis=1) * size).sum()


@unit
def test_a_run_sees_every_battle_once_an_epoch_and_verdicts_and_sources_evenly(
    train, synthetic_file, monkeypatch, tmp_path
):
    from sft_judge.data.battles import set_column

    table = read_battles(synthetic_file)
    sources = ["many" if row % 3 else "few" for row in range(table.num_rows)]
    write_battles(tmp_path / "b.parquet", set_column(table, "source", pa.array(sources)))
    seen, rows = [], []
    plain = JudgeTrainer.compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        seen.extend(inputs["targets"][:, 0].argmax(dim=1).tolist())
        rows.extend(tuple(ids[ids > 0].tolist()) for ids in inputs["input_ids"])
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched)
    settings = {"battles": tmp_path / "b.parquet", "max_steps": -1, "num_train_epochs": 2, "swap": "none"}
    train(**settings)
    epochs = np.array(seen).reshape(2, -1)
    one, two = rows[: table.num_rows], rows[table.num_rows :]
    assert sorted(one) == sorted(two) and one != two and len(one) == table.num_rows
    lengths = np.arange(1, table.num_rows + 1)
    for verdict in range(3):
        share = (epochs[0] == verdict).mean()
        drift = np.cumsum(epochs == verdict, axis=1) - lengths * share
        assert np.abs(drift).max() < 1
    seen.clear()
    train("other", **settings, battle_order="random")
    drift = np.cumsum(np.array(seen)[: table.num_rows] == 0) - lengths * (epochs[0] == 0).mean()
    assert np.abs(drift).max() > 1  # so the property above is the sampler's


@engine
def test_a_recipes_batches_are_of_like_lengths_where_it_says_so(train, monkeypatch):
    """By the longest battle less the shortest of each batch, against batches in the order of the battles."""
    plain, seen, lengths = JudgeTrainer.compute_loss, [], []

    def watched(self, model, inputs, *args, **kwargs):
        seen.append(inputs["row"].tolist())
        lengths[:] = self.train_dataset["length"]
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched)
    train(battle_order="by_length", swap="none", max_steps=-1, num_train_epochs=1)
    rows = np.array(seen)
    assert rows.shape == (15, 4) and sorted(rows.flat) == list(range(60))
    spans = [np.ptp(np.array(lengths)[each], axis=1).mean() for each in (rows, np.arange(60).reshape(15, 4))]
    assert spans[0] < spans[1] / 4


@unit
def test_a_mix_shows_each_source_as_often_as_it_says(synthetic_table):
    from sft_judge.data.battles import set_column

    sources = np.array(["x"] * 20 + ["y"] * 30 + ["z"] * 10)
    table = set_column(synthetic_table, "source", pa.array(sources))
    ids = np.array(mix_sources(table, {"x": 2.5, "y": 0.1, "z": 0}, seed=0)["id"].to_pylist())
    own = np.array(table["id"].to_pylist())
    times = np.array([(ids == name).sum() for name in own])
    assert times[:20].sum() == 50 and set(times[:20]) == {2, 3}
    assert times[20:50].sum() == 3 and times[20:50].max() == 1 and times[50:].sum() == 0
    assert (np.diff([list(own).index(name) for name in ids]) >= 0).all()  # the order stays
    assert mix_sources(table, None, 0) is table


@unit
@pytest.mark.parametrize(
    "mix, said",
    [
        ('{"planted": 1, "other": 1}', "sources are"),
        ("{}", "sources are"),
        ('{"planted": -1}', "expected a number"),
        ('{"planted": "all"}', "expected a number"),
    ],
)
def test_a_mix_that_names_other_sources_or_rates_is_one_clear_line(mix, said, command, capsys):
    assert main(command(mix=mix)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
