"""Preference sets, ratings, Arena chats, votes: what each says becomes one battle, or a reject with its reason."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.importing import BAD, GOOD, PREFERENCE, USER, import_rows, refused
from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data import battles as schema
from sft_judge.data.battles import FIELDS, read_battles
from sft_judge.data.importing.conversation import ROLES, RowError
from sft_judge.data.importing.formats import FORMATS, to_battle
from sft_judge.data.importing.labels import Reading, Sides

pytestmark = pytest.mark.unit


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def responses(battle):
    """(chosen, rejected) turns by the verdict."""
    sides = ("a", "b") if battle["verdict"] == "a" else ("b", "a")
    return tuple(battle[f"response_{side}"] for side in sides)


SAME_BATTLE = {
    "plain": {"prompt": USER, "chosen": GOOD, "rejected": BAD},
    "conversational": {"prompt": [user(USER)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]},
    "conversational, one message each": {
        "prompt": [user(USER)],
        "chosen": assistant(GOOD),
        "rejected": assistant(BAD),
    },
    "implicit prompt": {"chosen": [user(USER), assistant(GOOD)], "rejected": [user(USER), assistant(BAD)]},
    "prompt repeated in the chats": {
        "prompt": USER,
        "chosen": [user(USER), assistant(GOOD)],
        "rejected": [user(USER), assistant(BAD)],
    },
    "as JSON text": {
        "prompt": json.dumps([user(USER)]),
        "chosen": json.dumps([assistant(GOOD)]),
        "rejected": json.dumps([assistant(BAD)]),
    },
    "from and value": {
        "conversations": [{"from": "human", "value": USER}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "dialogue text": {
        "chosen": f"\n\nHuman: {USER}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {USER}\n\nAssistant: {BAD}",
    },
    "parts": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": USER}]}],
        "chosen": [assistant(GOOD)],
        "rejected": [assistant(BAD)],
    },
}


@pytest.mark.parametrize("row", SAME_BATTLE.values(), ids=SAME_BATTLE)
def test_every_form_of_preference_data_is_the_same_battle(row, tmp_path):
    ((battle,), rejects) = import_rows(tmp_path, [row])
    assert battle["prompt"] == [USER] and responses(battle) == ([GOOD], [BAD]) and not rejects
    assert battle["id"] == "rows-1" and battle["source"] == "rows"


def test_a_shared_beginning_is_the_prompt_as_trl_has_it(tmp_path):
    from trl import extract_prompt

    row = {"chosen": "The sky is blue", "rejected": "The sky is green"}
    ((battle,), _) = import_rows(tmp_path, [row])
    theirs = extract_prompt(row)
    assert battle["prompt"] == [theirs["prompt"]]
    assert responses(battle) == ([theirs["chosen"]], [theirs["rejected"]])


def test_a_history_stands_in_both_responses_and_system_text_before_the_prompt(tmp_path):
    history = [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello."), user(USER)]
    ((battle,), _) = import_rows(
        tmp_path, [{"prompt": history, "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}]
    )
    assert battle["prompt"] == ["Be brief.\n\nHi", USER]
    assert responses(battle) == (["Hello.", GOOD], ["Hello.", BAD])


def test_json_that_is_no_chat_stays_text(tmp_path):
    texts = {"prompt": '{"a": 1}', "chosen": "[1, 2]", "rejected": '[{"x": null}]'}
    ((battle,), _) = import_rows(tmp_path, [texts])
    assert battle["prompt"] == ['{"a": 1}'] and responses(battle) == (["[1, 2]"], ['[{"x": null}]'])


def test_the_chosen_response_lands_on_both_sides_alike_and_by_the_seed(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(201)]
    sides = {}
    for seed in ("0", "0", "1"):
        battles, _ = import_rows(tmp_path, rows, "--seed", seed)
        assert all(responses(battle) == (["good"], ["bad"]) for battle in battles)
        drawn = [battle["verdict"] for battle in battles]
        assert abs(np.cumsum([1 if side == "a" else -1 for side in drawn])).max() <= 1  # no stretch leans to a side
        assert sides.setdefault(seed, drawn) == drawn
    assert sides["0"] != sides["1"]


def test_scores_within_the_margin_are_ties(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "x", "rejected": "y", "score_chosen": high, "score_rejected": 5}
        for high in (5, 5.5, "6", 4)
    ]
    verdicts = {margin: import_rows(tmp_path, rows, "--tie-margin", margin)[0] for margin in ("0", "0.5")}
    assert [battle["verdict"] == "tie" for battle in verdicts["0"]] == [True, False, False, False]
    assert [battle["verdict"] == "tie" for battle in verdicts["0.5"]] == [True, True, False, False]
    assert responses(verdicts["0"][3]) == (["x"], ["y"])  # what people chose stays, whatever the scores


def test_rated_responses_win_by_their_score(tmp_path):
    rows = [
        {"prompt": "p", "response_a": "x", "response_b": "y", "score_a": one, "score_b": two}
        for one, two in ((1, 2), ("3.5", "2"), (2, 2), (None, None), ("good", 2))
    ]
    battles, rejects = import_rows(tmp_path, rows)
    assert [battle["verdict"] for battle in battles] == ["b", "a", "tie", None]
    assert rejects[0]["field"] == "score_a" and "'good'" in rejects[0]["reason"]


def test_rewardbench_rows_keep_their_subset_and_models(tmp_path):
    row = {"prompt": USER, "chosen": GOOD, "rejected": BAD, "subset": "math", "id": 7}
    ((battle,), _) = import_rows(tmp_path, [{**row, "chosen_model": "good", "rejected_model": "bad"}])
    assert battle["id"] == "7" and battle["source"] == "math"
    models = {battle["verdict"]: "good", {"a": "b", "b": "a"}[battle["verdict"]]: "bad"}
    assert (battle["model_a"], battle["model_b"]) == (models["a"], models["b"])


@pytest.mark.parametrize(
    "winner, verdict",
    [("model_a", "a"), ("model_b", "b"), ("tie", "tie"), ("tie (bothbad)", "tie"), ("both_bad", "tie")],
)
def test_arena_chats_are_battles_by_turns(winner, verdict, tmp_path):
    chats = [[user("Hi"), assistant(f"Hi from {side}"), user(USER), assistant(side)] for side in "ab"]
    row = {"question_id": "q", "model_a": "m", "model_b": "n", "winner": winner, "language": "English"}
    ((battle,), _) = import_rows(tmp_path, [{**row, "conversation_a": chats[0], "conversation_b": chats[1]}])
    assert battle["id"] == "q" and battle["verdict"] == verdict and battle["model_b"] == "n"
    assert battle["prompt"] == ["Hi", USER] and battle["response_b"] == ["Hi from b", "b"]


def test_arena_parquet_is_read_like_its_jsonl(tmp_path):
    row = {"question_id": "q", "model_a": "m", "model_b": "n", "winner": "tie"}
    row |= {f"conversation_{side}": [user("Hi"), assistant(side)] for side in "ab"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    output = tmp_path / "battles.parquet"
    assert main(["import", str(tmp_path / "rows.parquet"), "--output", str(output)]) == 0
    assert read_battles(output).to_pylist() == import_rows(tmp_path, [row])[0]


ARENA = {f"conversation_{side}": [user("Hi"), assistant(side)] for side in "ab"} | {"winner": "tie", "id": "1"}
OWN = {"id": "1", "prompt": "p", "response_a": "a", "response_b": "b"}
RATED = OWN | {"score_a": 2, "score_b": 1}
BAD_ROWS = {
    "no rejected": (PREFERENCE, {"rejected": None}, "rejected", "missing or null"),
    "another role": (
        PREFERENCE,
        {"chosen": [{"role": "tool", "content": "x"}], "rejected": [assistant("y")]},
        "chosen",
        "'tool'",
    ),
    "an image": (
        PREFERENCE,
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}]}],
            "chosen": [assistant("x")],
            "rejected": [assistant("y")],
        },
        "prompt",
        "image",
    ),
    "no messages": (PREFERENCE, {"chosen": [], "rejected": [assistant("y")]}, "chosen", "no messages"),
    "prompts differ": (
        PREFERENCE,
        {"prompt": None, "chosen": [user("p"), assistant("x")], "rejected": [user("q"), assistant("y")]},
        "rejected",
        "differ from those of chosen",
    ),
    "another prompt": (
        PREFERENCE,
        {"chosen": [user("other"), assistant("x")], "rejected": [user("other"), assistant("y")]},
        "chosen",
        "not the prompt's",
    ),
    "nothing shared": (PREFERENCE, {"prompt": None, "chosen": "x", "rejected": "y"}, "chosen", "no common beginning"),
    "ends with the user": (ARENA, {"conversation_a": [user("Hi")]}, "conversation_a", "does not end"),
    "other prompts": (
        ARENA,
        {"conversation_b": [user("Ho"), assistant("b")]},
        "conversation_b",
        "differ from those of",
    ),
    "no chat": (ARENA, {"conversation_a": "Hi"}, "conversation_a", "no messages"),
    "unknown winner": (ARENA, {"winner": "both"}, "winner", "'both'"),
    "half a score": (PREFERENCE, {"score_chosen": 3, "score_rejected": None}, "score_rejected", "expected a number"),
    "the same answer twice": (PREFERENCE, {"rejected": GOOD}, "rejected", "the same as chosen"),
    "the same response twice": (OWN | {"verdict": "b"}, {"response_b": "a"}, "response_b", "the same as response_a"),
    "an infinite score": (RATED, {"score_a": "inf"}, "score_a", "expected a finite number"),
    "an infinite weight": (OWN, {"weight": float("inf")}, "weight", "inf, expected a number of 0 or more. Rename"),
    "a weight below zero": (OWN, {"weight": -1}, "weight", "-1, expected a number of 0 or more. Rename"),
    "a list as weight": (OWN, {"weight": [1]}, "weight", "a list, expected a number of 0 or more. Rename"),
    "a bool as margin": (OWN, {"margin": True}, "margin", "a bool, expected a number. Rename"),
    "a soft label below zero": (OWN, {"soft_a": 1, "soft_b": -1}, "soft_b", "-1, expected a number of 0 or more"),
    "half a soft label": (OWN, {"soft_a": 1}, "soft_a", "[1.0, None, None]"),
    "soft labels of nothing": (OWN, {"soft_a": 0, "soft_b": 0}, "soft_a", "more than 0"),
    "NaN score": (PREFERENCE, {"score_chosen": "nan", "score_rejected": 1}, "score_chosen", "a finite number"),
}


@pytest.mark.parametrize("row, changes, field, reason", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_rejected_with_its_reason(row, changes, field, reason, tmp_path, capsys):
    battles, rejects = import_rows(tmp_path, [row, {**row, **changes, "id": "2"}])
    assert len(battles) == 1
    assert [reject["field"] for reject in rejects] == [field] and reason in rejects[0]["reason"]
    assert "2 rows in = 1 out + 1 rejected + 0 merged" in capsys.readouterr().out


@pytest.mark.parametrize("value, seen", [(["x"], "a list"), (True, "a bool"), ({"x": 1}, "a dict")])
def test_a_describing_column_of_another_type_is_left_out_of_every_row_and_counted(value, seen, tmp_path, capsys):
    names = ("source", "category", "language", "model_a", "model_b")
    rows = [{**PREFERENCE, "prompt": f"p{place}", **dict.fromkeys(names, value)} for place in range(3)]
    battles, rejects = import_rows(tmp_path, rows)
    assert len(battles) == 3 and not rejects
    assert {battle["source"] for battle in battles} == {"rows"} and not {*names[1:]} & set(battles[0])
    said = capsys.readouterr().out
    assert all(said.count(f"3 values of column '{name}' left out: {seen}, expected text") == 1 for name in names)


def test_model_names_of_another_type_are_left_out_of_preference_data(tmp_path, capsys):
    ((battle,), rejects) = import_rows(tmp_path, [{**PREFERENCE, "chosen_model": ["m"], "rejected_model": "n"}])
    assert not rejects and "n" in battle.values() and "'model_" in capsys.readouterr().out


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a", "tie", "[{", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner, max_size=3)
        | st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from([*ROLES, "tool"]), inner)
    ),
    max_leaves=8,
)
COLUMNS = [*FIELDS, "id", "verdict", "winner", "winner_model_a", "winner_model_b", "winner_tie", "chosen", "rejected"]
COLUMNS += [*schema.OPTIONAL, "score_a", "score_b"]


GOOD_ROWS = {
    "lmsys": {name: json.dumps([text]) for name, text in OWN.items() if name != "id"} | {"id": "1"},
    **dict.fromkeys(("wsdm", "battles", "rated"), OWN),
    **dict.fromkeys(("preference", "rewardbench"), PREFERENCE),
    "arena": ARENA,
    "judgebench": {"pair_id": "1", "question": "p", "response_A": "a", "response_B": "b", "label": "A>B"},
}


def parts(*parts) -> dict:
    """A conversation whose message has parts, as multimodal chats have them."""
    return {"conversation_a": [{"role": "user", "content": "p"}, {"role": "assistant", "content": list(parts)}]}


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(list(FORMATS)), st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=4))
@example("arena", parts({"type": [], "text": "a"}))
@example("arena", parts({"type": "text", "text": 5}, {"type": "text", "text": ["a"]}))
@example("arena", parts({"type": "text", "text": None}, {"type": "text"}))
def test_whatever_a_row_holds_it_is_a_battle_or_a_reject(format_name, changes):
    reading = Reading(Sides(0))
    try:
        found = to_battle(GOOD_ROWS[format_name] | changes, format_name, "source", 1, reading)
    except RowError as error:
        assert error.field and error.reason
        return
    table = pa.table({name: pa.array([found.get(name)], kind) for name, kind in schema.COLUMNS.items()})
    schema._check(Path("x"), table, 0, set())  # what is taken is a battle, and Arrow can hold it
    assert found["verdict"] in (*VERDICTS, None)


def test_texts_and_lines_have_a_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sft_judge.data.importing.conversation.MAX_CELL_CHARACTERS", 100)
    monkeypatch.setattr("sft_judge.data.importing.readers.LONGEST_ROW", 1_000)
    long = {**PREFERENCE, "chosen": "x" * 101}
    longer = {**PREFERENCE, "chosen": "x" * 5_000}
    battles, rejects = import_rows(tmp_path, [PREFERENCE, long, longer, PREFERENCE])
    assert len(battles) == 2 and battles[1]["id"] == "rows-4"
    assert [(reject["row"], reject["field"]) for reject in rejects] == [(2, "chosen"), (3, "line")]


def test_a_row_group_that_would_unpack_to_too_much_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sft_judge.data.importing.readers.LARGEST_GROUP", 10_000)
    text = ["x" * 10_000] * 100  # a few hundred bytes on disk
    pq.write_table(pa.table({"prompt": text, "chosen": text, "rejected": text}), tmp_path / "x.parquet")
    refused(capsys, tmp_path, tmp_path / "x.parquet", "uncompressed", "smaller row groups")


def test_a_json_list_is_read_like_jsonl(tmp_path):
    rows = [PREFERENCE, {**PREFERENCE, "prompt": "q"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=2))
    output = tmp_path / "battles.parquet"
    assert main(["import", str(tmp_path / "rows.json"), "--output", str(output)]) == 0
    assert read_battles(output).to_pylist() == import_rows(tmp_path, rows)[0]


def test_columns_that_name_a_side_are_none_of_chosen_and_rejected(tmp_path, capsys):
    rows = [{**PREFERENCE, "prompt": f"p{i}", "model_a": "x", "model_b": "y"} for i in range(8)]
    battles, _ = import_rows(tmp_path, rows)
    assert not any("model_a" in battle or "model_b" in battle for battle in battles)
    assert "8 values of column 'model_a' left out: chosen and rejected are neither" in capsys.readouterr().out
    (tmp_path / "soft.jsonl").write_text(json.dumps({**PREFERENCE, "soft_a": 0.9, "soft_b": 0.1}) + "\n")
    refused(capsys, tmp_path, tmp_path / "soft.jsonl", "soft_a: refers to a or b")
