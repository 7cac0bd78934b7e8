"""Rankings: strengths against second computations and planted ones, intervals against simulation, and the command."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from browser import assert_self_contained, opened
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from sft_judge.audit_page import visible
from sft_judge.battles.planted_law import davidson
from sft_judge.battles.schema import battle_table, write_battles
from sft_judge.battles.style import standardised, style_counts, style_differences
from sft_judge.bootstrap import cluster_draws
from sft_judge.calibration import Calibrated
from sft_judge.cli import main
from sft_judge.probs import Probs, write_probs
from sft_judge.ranking.contests import Contests, mean_opinion
from sft_judge.ranking.draws import parameter_draws
from sft_judge.ranking.fit import PRIOR, derivatives, design_matrix, fit, weighted_squares, with_prior
from sft_judge.ranking.measure import ELO, expected_scores, measure, rank_ranges, split_off
from sft_judge.verdicts import VERDICTS, swap

pytestmark = pytest.mark.unit
STRENGTHS = np.array([0.9, 0.4, 0.0, -0.4, -0.9])
NU = 0.8


def contests_of(sides, counts, clusters=None, features=None, num=5) -> Contests:
    clusters = np.arange(len(sides)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    features = np.zeros((len(sides), 0)) if features is None else features
    names = [f"control {place}" for place in range(features.shape[1])]
    return Contests([f"model {place}" for place in range(num)], sides, counts, clusters, features, names)


def drawn_contests(rows=600, seed=0, slope=None) -> Contests:
    """Votes from known strengths; with `slope`, two features that differ between the responses are worth so much."""
    rng = np.random.default_rng(seed)
    sides = np.array([rng.choice(len(STRENGTHS), 2, replace=False) for _ in range(rows)])
    features = rng.normal(size=(rows, 0 if slope is None else 2))
    utilities = STRENGTHS[sides]
    if slope is not None:
        utilities[:, 0] += features @ slope
    verdicts = (rng.random((rows, 1)) > davidson(utilities, NU).cumsum(axis=1)).sum(axis=1)
    return contests_of(sides, np.eye(3)[verdicts], rng.integers(rows // 2, size=rows), features)


def turned(contests: Contests, rows: np.ndarray) -> Contests:
    """The same battles, the responses of some rows exchanged."""
    counts = np.where(rows[:, None], swap(contests.counts), contests.counts)
    sides = np.where(rows[:, None], contests.sides[:, ::-1], contests.sides)
    features = np.where(rows[:, None], -contests.features, contests.features)
    return contests_of(sides, counts, contests.clusters, features, len(contests.models))


def test_bradley_terry_is_a_logistic_regression_on_who_met_whom():
    contests = drawn_contests(slope=np.array([0.5, -0.2]))
    found = fit(design_matrix(contests.sides, 5, contests.features), contests.counts[None], ties=False)[0]
    design = np.vstack([design_matrix(contests.sides, 5, contests.features).toarray(), np.eye(7)])
    wins = np.vstack([contests.counts[:, :2] + contests.counts[:, 2:] / 2, np.full((7, 2), PRIOR / 2)])
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000)
    regression.fit(np.vstack([design, design]), np.repeat([1, 0], len(design)), wins.T.ravel())
    assert found == pytest.approx(regression.coef_[0], abs=1e-4)


def test_davidson_is_the_maximum_that_a_general_optimiser_finds():
    contests = drawn_contests()

    def loss(parameters):
        strengths, nu = parameters[:-1], np.exp(parameters[-1])
        of_rows = np.log(davidson(strengths[contests.sides], nu))
        of_prior = np.log(davidson(np.stack([strengths, np.zeros(5)], axis=1), nu))
        return -(contests.counts * of_rows).sum() - PRIOR / 3 * of_prior.sum()

    found = fit(design_matrix(contests.sides, 5), contests.counts[None], ties=True)[0]
    assert found == pytest.approx(minimize(loss, np.zeros(6), tol=1e-9).x, abs=1e-4)


@pytest.mark.parametrize("ties", [True, False])
def test_strengths_that_made_the_probabilities_come_back_from_them(ties):
    pairs = np.array([(i, j) for i in range(5) for j in range(i)])
    probs = davidson(STRENGTHS[pairs], NU if ties else 0.0)
    found = fit(design_matrix(pairs, 5), 1e6 * probs[None], ties)[0]
    assert found[:5] - found[:5].mean() == pytest.approx(STRENGTHS, abs=1e-4)
    assert not ties or np.exp(found[5]) == pytest.approx(NU, abs=1e-4)


def test_a_maximum_is_found_also_where_counts_are_one_sided_or_of_very_unlike_size():
    rng, pairs = np.random.default_rng(0), np.array([(i, j) for i in range(6) for j in range(i)])
    for _ in range(60):
        some = rng.random((2, 15, 3)) < rng.random()
        counts = some * 10 ** rng.uniform(-6, 5, size=(2, 15, 3))
        for design in (design_matrix(pairs, 6), design_matrix(pairs, 6, standardised(rng.normal(size=(15, 2))))):
            for ties in (False, True):
                found = fit(design, counts, ties)
                slope, curvature = derivatives(*with_prior(design, counts, ties), found)
                gain = (slope * np.linalg.solve(curvature, slope[..., None])[..., 0]).sum(axis=1)
                assert (np.abs(gain) < 1e-9).all()  # nats that another step would bring


def test_weighted_squares_are_those_of_dense_algebra_for_one_and_for_many():
    rng = np.random.default_rng(0)
    design = design_matrix(np.array([(0, 1), (1, 2), (0, 2)]), 3, rng.normal(size=(3, 2)))
    weights = rng.random((4, 3))
    expected = [design.toarray().T @ np.diag(row) @ design.toarray() for row in weights]
    np.testing.assert_allclose(weighted_squares(design, weights), expected, atol=1e-12)
    np.testing.assert_allclose(weighted_squares(design, weights[:1]), expected[:1], atol=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_a_draw_is_the_fit_of_the_rows_of_the_drawn_prompts(ties):
    contests = drawn_contests(rows=200)
    draws = parameter_draws(contests, ties, repeats=5, seed=3)
    weights = np.concatenate(list(cluster_draws(int(contests.clusters.max()) + 1, 5, 3)))
    for draw, weight in zip(draws[1:], weights, strict=True):
        rows = np.repeat(np.arange(200), weight[contests.clusters].astype(int))
        again = fit(design_matrix(contests.sides[rows], 5), contests.counts[None, rows], ties)[0]
        assert draw == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize("ties", [True, False])
def test_with_things_held_equal_a_draw_is_close_to_the_fit_of_its_rows_and_the_data_are_fitted_whole(ties):
    contests = drawn_contests(rows=2000, slope=np.array([0.5, -0.2]))
    draws = parameter_draws(contests, ties, repeats=40, seed=3)
    design = design_matrix(contests.sides, 5, contests.features)
    assert draws[0] == pytest.approx(fit(design, contests.counts[None], ties)[0])
    weights = np.concatenate(list(cluster_draws(int(contests.clusters.max()) + 1, 40, 3)))
    again = fit(design, contests.counts * weights[:, contests.clusters, None], ties)
    assert (np.sqrt(((draws[1:] - again) ** 2).mean(axis=0)) < 0.1 * again.std(axis=0)).all()


@pytest.mark.parametrize("slope", [None, np.array([0.5, -0.2])])
def test_of_one_prompt_every_draw_is_the_data(slope):
    contests = drawn_contests(rows=30, slope=slope)
    contests.clusters[:] = 0
    draws = parameter_draws(contests, True, repeats=3)
    np.testing.assert_allclose(draws[1:], np.tile(draws[0], (3, 1)), atol=1e-6)


def test_planted_strengths_and_slopes_are_within_their_intervals():
    contests = drawn_contests(rows=6000, slope=np.array([0.6, 0.0]))
    ranking = measure(contests, "davidson")
    assert [row["model"] for row in ranking["models"]] == contests.models
    for row, strength in zip(ranking["models"], STRENGTHS, strict=True):
        assert row["rating"]["low"] < 1000 + ELO * strength < row["rating"]["high"]
    for control, slope in zip(ranking["controls"], (0.6, 0.0), strict=True):
        assert control["coefficient"]["low"] < slope < control["coefficient"]["high"]
    assert ranking["tie_parameter"]["low"] < NU < ranking["tie_parameter"]["high"]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = []
    for seed in range(200):
        draws = ELO * parameter_draws(drawn_contests(rows=300, seed=seed), True, repeats=200, seed=seed)[:, :5]
        draws -= draws.mean(axis=1, keepdims=True)
        low, high = np.percentile(draws[1:], [2.5, 97.5], axis=0)
        covered.append((low <= ELO * STRENGTHS) & (ELO * STRENGTHS <= high))
    assert 0.92 <= np.mean(covered) <= 0.98


def test_which_response_is_a_makes_no_difference():
    contests = drawn_contests(slope=np.array([0.5, 0.0]))
    rows = np.random.default_rng(1).random(len(contests.sides)) < 0.5
    for plain in (contests, contests_of(contests.sides, contests.counts, contests.clusters)):
        one, other = measure(plain, "davidson"), measure(turned(plain, rows), "davidson")
        for ours, theirs in zip(one["controls"], other["controls"], strict=True):
            assert ours["coefficient"] == pytest.approx(theirs["coefficient"])
        for ours, theirs in zip(one["models"], other["models"], strict=True):
            assert ours["rating"] == pytest.approx(theirs["rating"]) and ours["wins"] == theirs["wins"]


def test_the_mean_is_1000_and_an_anchor_moves_all_alike():
    contests = drawn_contests()
    plain = {row["model"]: row["rating"]["value"] for row in measure(contests, "bradley-terry")["models"]}
    anchored = {row["model"]: row["rating"] for row in measure(contests, "bradley-terry", ("model 2", 500))["models"]}
    assert np.mean(list(plain.values())) == pytest.approx(1000)
    assert anchored["model 2"] == {"value": 500, "low": 500, "high": 500}
    for name, rating in plain.items():
        assert anchored[name]["value"] - 500 == pytest.approx(rating - plain["model 2"])


def test_400_points_are_odds_of_ten_to_one_and_win_rates_are_the_mean_of_expected_scores():
    scores = expected_scores(np.array([400, 0, 0]) / ELO, None)
    assert scores[0, 1] == pytest.approx(10 / 11) and scores[1, 2] == pytest.approx(0.5)
    with_ties = expected_scores(np.array([0.7, 0.0]), np.log(NU))
    a, b, tie = davidson(np.array([[0.7, 0.0]]), NU)[0]
    assert with_ties[0, 1] == pytest.approx(a + tie / 2) and with_ties[1, 0] == pytest.approx(b + tie / 2)
    ranking = measure(drawn_contests(), "davidson")
    matrix = np.array(ranking["matrix"]["predicted"], dtype=float)
    rates = [row["win_rate"]["value"] for row in ranking["models"]]
    assert rates == pytest.approx(np.nanmean(matrix, axis=1), abs=1e-5)


def test_ranks_count_the_models_that_are_significantly_better_or_worse():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 5)) + np.array([0, 0.5, 9, 20, 20.5])
    best, worst = rank_ranges(points)
    for one in range(5):
        leads = [np.percentile(points[1:, other] - points[1:, one], 2.5) > 0 for other in range(5)]
        trails = [np.percentile(points[1:, one] - points[1:, other], 2.5) > 0 for other in range(5)]
        assert best[one] == 1 + sum(leads) and worst[one] == 5 - sum(trails)
    assert list(zip(best, worst, strict=True)) == [(4, 5), (4, 5), (3, 3), (1, 2), (1, 2)]


def test_models_that_no_battle_connects_are_left_out_and_one_that_only_won_is_named():
    sides = np.array([(0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (4, 5)])
    contests = contests_of(sides, np.eye(3)[[0, 0, 0, 0, 0, 2]], num=6)
    kept, left_out, unbounded = split_off(contests)
    assert kept.models == ["model 0", "model 1", "model 2", "model 3"]
    assert left_out == ["model 4", "model 5"] and unbounded == ["model 3"]
    assert split_off(turned(contests, np.arange(6) % 2 == 0))[1:] == (left_out, unbounded)
    rating = measure(kept, "bradley-terry")["models"][0]["rating"]
    assert np.isfinite([rating["value"], rating["low"], rating["high"]]).all()


def test_of_two_models_of_which_one_won_all_neither_has_a_bound():
    contests = contests_of(np.array([(0, 1), (1, 0), (0, 1)]), np.eye(3)[[0, 1, 0]], num=2)
    assert split_off(contests)[1:] == ([], ["model 0", "model 1"])


def test_a_model_of_few_battles_does_not_make_the_others_unsure():
    contests = drawn_contests(rows=2000)
    plain = {row["model"]: row["rating"] for row in measure(contests, "bradley-terry")["models"]}
    sides = np.vstack([contests.sides, [(5, 0)] * 3])
    counts = np.vstack([contests.counts, np.eye(3)[[0, 1, 0]]])
    more = contests_of(sides, counts, np.append(contests.clusters, [5000, 5001, 5002]), num=6)
    for row in measure(more, "bradley-terry")["models"]:
        if row["model"] in plain:
            width, before = (figure["high"] - figure["low"] for figure in (row["rating"], plain[row["model"]]))
            assert width < 1.3 * before


def test_marks_are_counted_in_prose_and_code_blocks_apart():
    text = "# One\n\n- a\n- b\n1. c\n\n**bold** and __bold__ but 2 * 3 * 4\n```\n# no header\n- no list\n```\nend"
    rows = [{"id": "x", "prompt": ["p"], "response_a": [text, "## Two"], "response_b": ["", "plain"], "verdict": "a"}]
    table = battle_table(rows)
    names = ["length", "headers", "lists", "bold", "code blocks"]
    a = style_counts(table["response_a"], names)
    assert a.tolist() == [[len(text) + 1 + len("## Two"), 2, 3, 2, 1]]
    b = style_counts(table["response_b"], names)
    assert b.tolist() == [[6, 0, 0, 0, 0]]
    assert style_differences(a, b)[0, 1:].tolist() == [1, 1, 1, 1]
    assert (style_differences(b, b)[0] == 0).all()


def test_differences_are_brought_to_one_scale_and_exchanged_responses_change_no_more_than_the_sign():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, [0.1, 2, 0], size=(50, 3))
    differences[:, 2] = 0
    found, signs = standardised(differences), np.where(rng.random((50, 1)) < 0.5, -1, 1)
    assert (found**2).mean(axis=0) == pytest.approx([1, 1, 0])
    np.testing.assert_allclose(standardised(signs * differences), signs * found)


# ---------------------------------------------------------------------------------------------------------------------
# the command


NAMES = ["aurora", "birch\u202e", "<script>alert(1)</script>", "dune", "ember"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """400 votes of five models on 100 prompts, and a judge that knows the truth."""
    folder = tmp_path_factory.mktemp("rank")
    contests = drawn_contests(rows=400)
    verdicts = contests.counts.argmax(axis=1)
    rows = [
        {
            "id": f"{place}",
            "prompt": [f"prompt {place % 100}"],
            "response_a": ["secret text " * (1 + place % 7)],
            "response_b": ["secret text " * (1 + place % 5)],
            "verdict": VERDICTS[verdicts[place]],
            "model_a": NAMES[contests.sides[place, 0]],
            "model_b": NAMES[contests.sides[place, 1]],
        }
        for place in range(400)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))
    truth = davidson(STRENGTHS[contests.sides], NU)
    ids = np.array([row["id"] for row in rows], dtype=object)
    write_probs(folder / "probs.parquet", Probs(ids, np.full(400, "ab", dtype=object), np.log(truth), {"model": "x"}))
    return SimpleNamespace(
        folder=folder, rows=rows, truth=truth, sides=contests.sides, battles=folder / "battles.parquet"
    )


def strictly(path):
    """A JSON file without NaN or Infinity, which are no JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def rank(battles, output, *more):
    return main(["rank", str(battles), "--output", str(output), *map(str, more)])


def test_votes_a_judge_and_both_are_counted(world, tmp_path, capsys):
    found = {}
    for source in ("votes", "judge", "both"):
        probs = [] if source == "votes" else ["--probs", world.folder / "probs.parquet", "--from", source]
        assert rank(world.battles, tmp_path / source, *probs) == 0
        ranking = strictly(tmp_path / source / "ranking.json")
        assert ranking["from"] == source and ranking["battles"] == 400 and ranking["prompts"] == 100
        found[source] = {row["model"]: row for row in ranking["models"]}
    for name in NAMES:
        one, other, both = (found[source][name] for source in ("votes", "judge", "both"))
        first, second = world.sides.T == NAMES.index(name)
        assert other["wins"] == pytest.approx(world.truth[first, 0].sum() + world.truth[second, 1].sum())
        for key in ("wins", "losses", "ties"):
            assert both[key] == pytest.approx(one[key] + other[key])
    judge = np.array([found["judge"][name]["rating"]["value"] for name in NAMES])
    assert judge == pytest.approx(sorted(judge, reverse=True))
    said = capsys.readouterr().out
    assert "400 of 400 battles over 100 prompts" in said and "raw: no calibration" in said


def test_several_judges_are_averaged_and_what_a_deadline_left_unread_is_no_opinion():
    ids = np.array(["x", "y", "z"], dtype=object)
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], size=(2, 3))
    orders = np.array([[1, 1, 0], [1, 0, 0]])
    judges = [Calibrated(ids, part, None, "", judged) for part, judged in zip(probs, orders, strict=True)]
    opinion = mean_opinion(judges)
    assert list(opinion.row_of) == ["x", "y"]
    np.testing.assert_allclose(opinion.probs, [probs[:, 0].mean(axis=0), probs[0, 1]])
    judges[1].probs[:, 2] = 0
    of_two = mean_opinion(judges).probs
    assert (of_two[:, 2] == 0).all() and of_two.sum(axis=1) == pytest.approx(1)


def test_the_csv_and_the_table_say_what_the_json_says(world, tmp_path, capsys):
    assert rank(world.battles, tmp_path) == 0
    models = strictly(tmp_path / "ranking.json")["models"]
    rows = list(csv.DictReader(open(tmp_path / "ranking.csv", encoding="utf-8")))
    said = capsys.readouterr().out
    for row, model in zip(rows, models, strict=True):
        assert row["model"] == model["model"] and float(row["rating_low"]) == model["rating"]["low"]
        line = next(line for line in said.splitlines() if line.startswith(f"| {visible(model['model'])} "))
        assert f" {model['rating']['value']:.0f} [{model['rating']['low']:.0f}, " in line
    assert (tmp_path / "ranking.json.manifest.json").is_file()


def test_shares_of_votes_with_their_number_as_weight_rank_like_the_votes_one_by_one(world, tmp_path):
    shares, single = [], []
    for row in world.rows[:150]:
        soft = {"soft_a": 0.5, "soft_b": 0.25, "soft_tie": 0.25, "weight": 4.0}
        shares.append(row | {"verdict": "a"} | soft)
        for place, verdict in enumerate(("a", "a", "b", "tie")):
            single.append(row | {"id": f"{row['id']}-{place}", "verdict": verdict})
    ratings = []
    for name, rows in (("shares", shares), ("single", single)):
        write_battles(tmp_path / f"{name}.parquet", battle_table(rows))
        assert rank(tmp_path / f"{name}.parquet", tmp_path / name, "--method", "davidson") == 0
        models = strictly(tmp_path / name / "ranking.json")["models"]
        ratings.append({row["model"]: row["rating"] for row in models})
    for name in NAMES:
        assert ratings[0][name] == pytest.approx(ratings[1][name], abs=1e-6)


def test_what_is_not_counted_is_said(world, tmp_path, capsys):
    rows = [
        *world.rows[:100],
        world.rows[100] | {"verdict": None},
        world.rows[101] | {"model_b": None},
        world.rows[102] | {"model_b": world.rows[102]["model_a"]},
        world.rows[103] | {"model_a": "island", "model_b": "rock"},
    ]
    write_battles(tmp_path / "some.jsonl", battle_table(rows))
    assert rank(tmp_path / "some.jsonl", tmp_path / "out") == 0
    ranking = strictly(tmp_path / "out" / "ranking.json")
    assert sum(ranking["skipped"].values()) == 4 and ranking["battles"] == 100
    assert ranking["left_out"] == ["island", "rock"]
    said = capsys.readouterr().out
    for words in (
        "1 without both models' names",
        "1 of a model against itself",
        "1 without verdict",
        "1 of models left out",
        "no battle connects them with the others: island, rock",
    ):
        assert words in said


def test_length_and_style_are_held_equal_and_what_never_differs_is_named(world, tmp_path, capsys):
    assert rank(world.battles, tmp_path, "--control", "length", "style") == 0
    ranking = strictly(tmp_path / "ranking.json")
    assert [control["name"] for control in ranking["controls"]] == ["length"]
    said = capsys.readouterr().out
    assert "no two responses differ in it: headers, lists, bold, code blocks" in said and "Held equal: length." in said


@pytest.mark.parametrize("form", ["csv", "json", "rows", "own"])
def test_the_correlation_with_a_reference_is_spearmans(world, tmp_path, form):
    theirs = dict(zip(NAMES, [3.0, 500.0, 1.0, 40.0, 2.0], strict=True)) | {"stranger": 9.0}
    files = {
        "csv": "model,votes,rating\n" + "".join(f"{name},7,{rating}\n" for name, rating in theirs.items()),
        "json": json.dumps(theirs),
        "rows": json.dumps([{"model": name, "rating": rating} for name, rating in theirs.items()]),
        "own": json.dumps({"models": [{"model": name, "rating": {"value": value}} for name, value in theirs.items()]}),
    }
    (tmp_path / "theirs").write_text(files[form])
    assert rank(world.battles, tmp_path, "--reference", tmp_path / "theirs") == 0
    ranking = strictly(tmp_path / "ranking.json")
    ours = {row["model"]: row["rating"]["value"] for row in ranking["models"]}
    expected = spearmanr([ours[name] for name in NAMES], [theirs[name] for name in NAMES]).statistic
    assert ranking["reference"]["spearman"]["value"] == pytest.approx(expected)
    assert ranking["reference"]["models"] == 5


def test_five_battles_on_one_prompt_give_a_table_without_intervals_and_say_why(world, tmp_path, capsys):
    rows = [row | {"prompt": ["the same"]} for row in world.rows[:5]]
    write_battles(tmp_path / "few.jsonl", battle_table(rows))
    assert rank(tmp_path / "few.jsonl", tmp_path / "out") == 0
    ranking = strictly(tmp_path / "out" / "ranking.json")
    assert {row["rating"]["low"] for row in ranking["models"]} == {None}
    assert {(row["rank"], row["rank_high"]) for row in ranking["models"]} == {(1, len(ranking["models"]))}
    assert "all battles have one prompt" in capsys.readouterr().out


BAD = {
    "no models": ([], "unnamed", "no model_a in any battle"),
    "one model": ([], "alone", "nothing to rank by in 5 battles (5 of a model against itself)"),
    "no verdicts": ([], "unlabelled", "(400 without verdict)"),
    "a judge without probs": (["--from", "both"], "battles", "--from both needs a judge"),
    "probs for nothing": (["--from", "votes", "--probs", "{world}/probs.parquet"], "battles", "takes no --probs"),
    "an unknown anchor": (["--anchor", "dunes=1000"], "battles", "Did you mean 'dune'?"),
    "an anchor without a rating": (["--anchor", "dune"], "battles", "expected a model and its rating"),
    "no reference": (["--reference", "{world}/none.csv"], "battles", "no such file"),
    "a reference of something else": (["--reference", "{world}/battles.parquet"], "battles", "no ratings"),
    "probs of other battles": (["--probs", "{world}/others.parquet"], "battles", "(400 without probabilities)"),
    "a weight below zero": ([], "weightless", "row 1: counts as"),
    "a weight without end": ([], "endless", "row 2: counts as"),
}


@pytest.fixture(scope="module")
def bad_files(world):
    """Battles and probs in which something is amiss."""
    nameless = [{key: row[key] for key in row if not key.startswith("model_")} for row in world.rows]
    files = {
        "unnamed": nameless,
        "alone": [row | {"model_a": "x", "model_b": "x"} for row in world.rows[:5]],
        "unlabelled": [row | {"verdict": None} for row in world.rows],
        "endless": [row | {"weight": weight} for row, weight in zip(world.rows[:3], (1.0, np.inf, None), strict=True)],
        "weightless": [row | {"weight": -1.0} for row in world.rows],
    }
    for name, rows in files.items():
        write_battles(world.folder / f"{name}.parquet", battle_table(rows))
    ids = np.array(["a", "b"], dtype=object)
    write_probs(
        world.folder / "others.parquet", Probs(ids, np.full(2, "ab", dtype=object), np.log(np.full((2, 3), 1 / 3)))
    )


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(world, bad_files, tmp_path, capsys, case):
    more, battles, said = BAD[case]
    more = [word.format(world=world.folder) for word in more]
    assert rank(world.folder / f"{battles}.parquet", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_page_asks_the_net_for_nothing_shows_no_battle_and_escapes_names(world, tmp_path):
    assert rank(world.battles, tmp_path) == 0
    page = (tmp_path / "ranking.html").read_text()
    assert_self_contained(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "secret text" not in page
    assert "birch⟨U+202E⟩" in page and "\u202e" not in page  # which would turn around what follows it


def test_a_browser_opens_the_page_without_a_console_error(world, tmp_path):
    assert rank(world.battles, tmp_path) == 0
    shown = opened(tmp_path / "ranking.html")
    assert shown.count("<svg") == 3 and "&lt;script&gt;alert(1)" in shown


def test_mt_benchs_votes_put_gpt_4_first_and_llama_last(data_folder, tmp_path):
    battles = tmp_path / "battles.parquet"
    assert main(["import", str(data_folder / "mtbench_votes_q1to7.jsonl"), "--output", str(battles)]) == 0
    assert rank(battles, tmp_path / "out") == 0
    models = strictly(tmp_path / "out" / "ranking.json")["models"]
    assert models[0]["model"] == "gpt-4" and (models[0]["rank"], models[0]["rank_high"]) == (1, 1)
    assert models[-1]["model"] == "llama-13b" and models[-1]["rank"] == len(models) == 6
