"""Lists as pandas writes them into CSV: read back exactly as Python and numpy printed them, or refused."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.importing import refused
from sft_judge.cli import main
from sft_judge.data.battles import read_battles
from sft_judge.data.importing.literals import read_list, read_printed

pytestmark = pytest.mark.unit

LETTERS = st.one_of(st.sampled_from("'\"\\ \n[]{},:.\ue000a0"), st.characters(exclude_categories=["Cs"]))
TEXT = st.text(LETTERS, max_size=12)
TURNS = st.lists(st.one_of(TEXT, st.none()), max_size=4)
CHATS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), max_size=3)


@settings(deadline=None, max_examples=300)
@given(st.one_of(TURNS, CHATS))
def test_a_list_is_read_as_python_and_numpy_print_it(value):
    assert read_printed(repr(value)) == value
    array = np.empty(len(value), object)
    array[:] = value
    with np.printoptions(threshold=10_000):
        assert read_printed(str(array)) == value
    assert read_list(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        *("['a''b']", "['a' + 'b']", "[__import__('os')]", "[f'x']", "['a'] ['b']", "[a]", "['a' ... 'b']", "['a'"),
        *("('a',)", "[x for x in 'ab']", "['a', ", "{'a': 1}"),
    ],
)
def test_what_neither_printed_is_refused(text):
    with pytest.raises(ValueError):
        read_printed(text)


def test_a_list_whose_middle_numpy_left_out_is_refused():
    with pytest.raises(ValueError, match="left out its middle"):
        read_printed(str(np.array(["x"] * 2000)))


def import_csv(tmp_path, header, rows, capsys, delimiter=","):
    """Import a CSV as pandas writes it; the battles, and what was printed."""
    source, output = tmp_path / "s.csv", tmp_path / "b.jsonl"
    with open(source, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    assert main(["import", str(source), "--output", str(output)]) == 0
    return read_battles(output).to_pylist(), capsys.readouterr().out


COLUMNS = ["id", "prompt", "response_a", "response_b", "winner"]


def test_printed_lists_are_turns_in_a_file_of_them_and_text_where_they_are_few(tmp_path, capsys):
    turns = [["q", "r"], ["a", None], ["b", 'it\'s "x"']]
    battles, said = import_csv(tmp_path, COLUMNS, [["1", *map(repr, turns), "model_a"]], capsys)
    assert [battles[0][name] for name in COLUMNS[1:4]] == [["q", "r"], ["a", ""], ["b", 'it\'s "x"']]
    assert battles[0]["verdict"] == "a" and "3 lists as printed by Python or numpy" in said
    rows = [["1", "List two fruits.", "['pear', 'fig']", "[1, 2", "model_b"], ["2", "q", "a", "b", "model_a"]]
    battles, said = import_csv(tmp_path, COLUMNS, rows, capsys)
    assert battles[0]["response_a"] == ["['pear', 'fig']"] and battles[0]["response_b"] == ["[1, 2"]
    assert "1 cells that look like a list or a chat, kept as plain text" in said


def test_a_cell_among_lists_that_cannot_be_read_is_rejected_for_what_it_is(tmp_path, capsys):
    rows = [[str(n), "['q']", "['a']", "['b']"] for n in range(3)] + [["3", "['q'", "['a']", "['b']"]]
    battles, said = import_csv(tmp_path, COLUMNS[:4], rows, capsys)
    assert len(battles) == 3 and "4 rows in = 3 out + 1 rejected" in said
    assert "not a list as printed by Python or numpy" in said


def test_a_printed_chat_is_read_and_a_broken_one_rejected(tmp_path, capsys):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "it's"}]
    other = [chat[0], {"role": "assistant", "content": "b"}]
    rows = [[repr(chat), str(np.array(other, object))], [repr(chat)[:-9], repr(other)]]
    battles, said = import_csv(tmp_path, ["chosen", "rejected"], rows, capsys)
    assert len(battles) == 1 and battles[0]["prompt"] == ["q"]
    assert {battles[0]["response_a"][0], battles[0]["response_b"][0]} == {"it's", "b"}
    assert "1 rejected" in said and "it looks like a chat" in said


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_tabs_and_words_of_truth_are_read(delimiter, tmp_path, capsys):
    header = ["id", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"]
    rows = [["1", '["q, r"]', '["a"]', '["b"]', "False", "True", "false"]]
    battles, said = import_csv(tmp_path, header, rows, capsys, delimiter)
    assert battles[0]["verdict"] == "b" and battles[0]["prompt"] == ["q, r"] and "separated by" in said


def test_numbers_as_winners_are_named_for_what_they_are(tmp_path, capsys):
    (tmp_path / "s.csv").write_text("id,prompt,response_a,response_b,winner\n1,q,a,b,0\n")
    refused(capsys, tmp_path, tmp_path / "s.csv", "a number does not say which response won")
