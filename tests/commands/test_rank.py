"""`sft-judge rank`: what counts, what the files say, what is refused, and the page."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from helpers.browser import assert_self_contained, opened
from helpers.contests import NU, STRENGTHS, drawn_contests
from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.evaluation.reporting.battle_text import visible

pytestmark = pytest.mark.unit
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
    assert "400 of 400 battles over 100 prompts" in said and "raw: the file has no hash" in said


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
    values = {control["name"]: control["coefficient"]["value"] for control in ranking["controls"]}
    assert values.pop("length") is not None
    assert values == dict.fromkeys(["headers", "lists", "bold", "code blocks"])
    said = capsys.readouterr().out
    assert "or fewer lost: headers, lists, bold, code blocks" in said and "Held equal: length." in said
    assert "| bold        | – " in said


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


SPARSE = [(3, 2, "tie"), (1, 0, "b"), (4, 0, "a"), (3, 1, "b"), (3, 1, "tie"), (0, 4, "tie")]


@pytest.mark.parametrize("method", ["bradley-terry", "davidson"])
@pytest.mark.parametrize("battles", [SPARSE, SPARSE[:1], SPARSE[1:2], [(0, 1, "tie")] * 12, SPARSE * 3])
def test_a_handful_of_battles_gives_what_can_be_known_and_dashes(world, tmp_path, capsys, method, battles):
    rows = [
        world.rows[place]
        | {"prompt": [f"p {place}"], "verdict": verdict, "model_a": f"m{a}", "model_b": f"m{b}"}
        | {"response_a": ["word " * (place + 2)], "response_b": ["word"]}
        for place, (a, b, verdict) in enumerate(battles)
    ]
    write_battles(tmp_path / "few.jsonl", battle_table(rows))
    for more in ([], ["--control", "length"]):
        assert rank(tmp_path / "few.jsonl", tmp_path / "out", "--method", method, *more) == 0
        ranking = strictly(tmp_path / "out" / "ranking.json")
        printed = capsys.readouterr().out
        assert " nan" not in printed and ("| –" in printed or not ranking["unbounded"])
        if battles == SPARSE:
            assert ranking["unbounded"] == ["m4", "m0"] and "6 prompts are few" in printed
        if battles == SPARSE[1:2]:
            assert ranking["unbounded"] == ["m1", "m0"]


BAD = {
    "no models": ([], "unnamed", "no model_a in any battle"),
    "one model": ([], "alone", "nothing to rank by in 5 battles (5 of a model against itself)"),
    "no verdicts": ([], "unlabelled", "(400 without verdict)"),
    "a judge without probs": (["--from", "both"], "battles", "--from both needs a judge"),
    "probs for nothing": (["--from", "votes", "--probs", "{world}/probs.parquet"], "battles", "takes no --probs"),
    "an unknown anchor": (["--anchor", "dunes=1000"], "battles", "Did you mean 'dune'?"),
    "an anchor that lost all": (["--anchor", "dune=1"], "losing", "won or lost all its battles with the others"),
    "an anchor without a rating": (["--anchor", "dune"], "battles", "expected a model and its rating"),
    "no reference": (["--reference", "{world}/none.csv"], "battles", "no such file"),
    "a reference of something else": (["--reference", "{world}/battles.parquet"], "battles", "no ratings"),
    "probs of other battles": (["--probs", "{world}/others.parquet"], "battles", "(400 without probabilities)"),
    "a weight below zero": ([], "weightless", "weight is -1.0, expected"),
    "a weight without end": ([], "endless", "weight is inf, expected"),
}


@pytest.fixture(scope="module")
def bad_files(world):
    """Battles and probs in which something is amiss."""
    nameless = [{key: row[key] for key in row if not key.startswith("model_")} for row in world.rows]
    files = {
        "unnamed": nameless,
        "alone": [row | {"model_a": "x", "model_b": "x"} for row in world.rows[:5]],
        "unlabelled": [row | {"verdict": None} for row in world.rows],
        "losing": [
            row | {"verdict": "b" if row["model_a"] == "dune" else "a"} for row in world.rows if "dune" in row.values()
        ],
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
