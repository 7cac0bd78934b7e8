"""Candidates: what a row of several answers to a prompt may be, and what is refused by its number."""

import pytest

from helpers.candidates import best_of_n, written
from sft_judge.core.errors import InputError
from sft_judge.data.candidates import make_group, read_groups, write_rows
from sft_judge.data.importing.conversation import RowError

pytestmark = pytest.mark.unit


def test_texts_turns_and_chats_are_the_same_battle():
    asked, said = "Q?", ["one", "two"]
    plain = make_group(asked, said)
    user, answers = {"role": "user", "content": asked}, [{"role": "assistant", "content": text} for text in said]
    for prompt, candidates in (
        ([asked], said),
        ([asked], [[text] for text in said]),
        ([user], said),
        ([user], [[message] for message in answers]),
        ([user], [[user, message] for message in answers]),
        (asked, [[message] for message in answers]),
    ):
        assert make_group(prompt, candidates) == plain
    both = make_group([asked, "And?"], [["one", "more"], ["two", "less"]])
    assert both.prompts == [asked, "And?"] and both.responses == [["one", "more"], ["two", "less"]]
    earlier = [user, answers[0], {"role": "user", "content": "And?"}]
    assert make_group(earlier, ["more", "less"]).responses == [["one", "more"], ["one", "less"]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"candidates": ["x"]}, "prompt: missing"),
        ({"prompt": "p"}, "candidates: missing"),
        ({"prompt": "p", "candidates": []}, "candidates: missing, empty"),
        ({"prompt": "p", "completions": "text"}, "completions: missing, empty or not a list"),
        ({"prompt": "p", "candidates": ["x", None]}, "candidates: null, expected text"),
        ({"prompt": "p", "candidates": ["x", 3]}, "candidates: 3, expected text"),
        ({"prompt": 3, "candidates": ["x"]}, "prompt: 3, expected text"),
        ({"prompt": ["p", "q"], "candidates": ["x"]}, "expected 2 turns"),
        ({"prompt": "p", "candidates": [[{"role": "king", "content": "x"}]]}, "role is 'king'"),
        ({"prompt": "p", "candidates": [[{"role": "user", "content": "x"}]]}, "user that is not the prompt's"),
        ([], "not a JSON object"),
    ],
)
def test_a_row_that_is_none_is_named_and_nothing_is_written(row, reason, judge, tmp_path, capsys):
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": ["x", "y"]}, row])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft-judge:")]
    assert "row 2" in line and reason in line, line
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_parquet_holds_what_jsonl_does_but_not_texts_and_chats_at_once(tmp_path):
    chat = [{"role": "assistant", "content": "one"}], [{"role": "assistant", "content": "two"}]
    rows = [{"id": "x", "prompt": [{"role": "user", "content": "Q?"}], "candidates": list(chat)}]
    for suffix in ("jsonl", "parquet"):
        write_rows(tmp_path / f"rows.{suffix}", rows)
    one, two = (read_groups(tmp_path / f"rows.{suffix}")[0] for suffix in ("jsonl", "parquet"))
    assert one == two and one.responses == [["one"], ["two"]]
    with pytest.raises(InputError, match="mix texts and chats.*jsonl"):
        write_rows(tmp_path / "mixed.parquet", [*rows, {"id": "y", "prompt": "Q?", "candidates": ["one"]}])
    assert not (tmp_path / "mixed.parquet").exists()


def test_the_output_says_in_its_name_what_it_is(judge, tmp_path, capsys):
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": ["x", "y"]}])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.csv") == 2
    assert "ends with .jsonl or .parquet" in capsys.readouterr().err


def test_an_anchor_that_is_not_there_or_not_meant_is_an_error(judge, tmp_path, capsys):
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": ["x", "y"]}])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", "--anchor", "gold") == 2
    assert "gold: missing" in capsys.readouterr().err
    words = ("--anchor", "gold", "--method", "knockout")
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", *words) == 2
    assert "not knockout" in capsys.readouterr().err


def test_a_limit_reads_the_first_rows_alone(tmp_path):
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": ["x"]}, {"prompt": None}])
    assert len(read_groups(tmp_path / "in.jsonl", limit=1)) == 1
    with pytest.raises(InputError, match="row 2"):
        read_groups(tmp_path / "in.jsonl")
    with pytest.raises(RowError):
        make_group("p", [None])
