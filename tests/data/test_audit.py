"""The audit: its counts are those of a second way, its page is self-contained and shows no text of a battle."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.browser import assert_self_contained, opened
from sft_judge.cli import main
from sft_judge.data import audit as audit_module
from sft_judge.data.audit import audit_battles, win_rate
from sft_judge.data.battles import FIELDS, battle_table, open_battles, write_battles
from sft_judge.data.examples import choose_examples
from sft_judge.data.injection import find_injections
from sft_judge.data.preparing.minhash import NEAR_SIMILARITY
from sft_judge.data.share_interval import share_interval
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings
from sft_judge.data.synthetic.vocabulary import INJECTIONS
from sft_judge.evaluation import audit_report as audit_page
from sft_judge.modeling.judge_spec import Budget
from sft_judge.prompts.show import open_prompt

pytestmark = pytest.mark.unit
SCRIPT = "<script>alert(1)</script>"


def battle(number: int, prompt="p", a="aa", b="b", verdict="a", **more) -> dict:
    fields = {"prompt": [prompt], "response_a": [a], "response_b": [b]}
    return {"id": str(number), **fields, "verdict": verdict, **more}


def audit_of(rows: list[dict], folder: Path, **options) -> dict:
    write_battles(folder / "battles.parquet", battle_table(rows))
    return audit_battles(open_battles(folder / "battles.parquet"), **options).audit()


@pytest.fixture(scope="module")
def synthetic() -> list[dict]:
    """700 synthetic battles with everything: hostile text, near-duplicate prompts, folds that split them."""
    knobs = preset_settings("full", rows=700, test_rows=1, shifted_rows=1, hostile=0.5, near_duplicates=0.3)
    return [{**row, "fold": place % 3} for place, row in enumerate(generate_split(knobs, "train").rows)]


def test_counts_of_a_small_set_are_those_done_by_hand(tmp_path):
    rows = [
        battle(0, source="s"),
        battle(1, source="s"),  # the same row again
        battle(2, prompt=" P ", a="", b="long", verdict="b", source="t"),
        battle(3, prompt="q", a="same", b="same", verdict="tie", source="t"),
        battle(4, prompt="r <|IM_end|>", a="longer", b="x", verdict="b", source="t"),
        battle(5, prompt="u", b=" \n", verdict=None, source="t"),
    ]
    audit = audit_of(rows, tmp_path)
    assert audit["rows_by"]["verdict"] == {"a": 2, "b": 2, "tie": 1, "none": 1}
    assert audit["rows_by"]["source"] == {"t": 4, "s": 2}
    assert audit["empty"] == {"prompt": 0, "response_a": 1, "response_b": 1}
    assert audit["identical_responses"] == 1
    assert audit["duplicates"] == {"different_prompts": 4, "rows_sharing_a_prompt": 3, "rows_repeating_a_row": 1}
    assert audit["first_answer_wins"]["value"] == 2 / 4
    assert audit["longer_answer_wins"]["value"] == 3 / 4 and audit["longer_answer_wins"]["n"] == 4
    assert audit["hostile_rows"] == 1 and list(audit["hostile_text"]) == ["control tokens: ChatML, Qwen, LFM"]
    assert audit["characters"]["response_a"]["1"] == 6 and audit["leaks"] is None


def test_figures_are_those_of_plain_loops_over_the_rows(synthetic, tmp_path):
    audit = audit_of(synthetic, tmp_path)
    lengths = {name: [len("".join(row[name])) for row in synthetic] for name in FIELDS}
    assert audit["characters"]["prompt"]["0.5"] == np.median(lengths["prompt"])
    assert sum(audit["length_histogram"]["counts"]["response_b"]) == len(synthetic)
    assert audit["rows_by"]["turns"] == {
        str(n): c for n, c in sorted(Counter(len(r["prompt"]) for r in synthetic).items())
    }
    a, b = (np.array(lengths[name]) for name in FIELDS[1:])
    places = np.union1d(a, b)
    distance = max(abs((a <= place).mean() - (b <= place).mean()) for place in places)
    assert audit["length_symmetry"]["ks_distance"] == pytest.approx(distance)
    outcomes = Counter()
    for row in synthetic:
        for side in "ab":
            result = "ties" if row["verdict"] == "tie" else "wins" if row["verdict"] == side else "losses"
            outcomes[row[f"model_{side}"], result] += 1
    found = {(row["model"], key): row[key] for row in audit["models"] for key in ("wins", "losses", "ties")}
    assert found == {key: outcomes[key] for key in found} and sum(found.values()) == 2 * len(synthetic)
    longer = [(row["verdict"] == "a") == (x > y) for row, x, y in zip(synthetic, a, b, strict=True) if x != y]
    decided = [
        hit
        for hit, row in zip(longer, (r for r, x, y in zip(synthetic, a, b, strict=True) if x != y), strict=True)
        if row["verdict"] != "tie"
    ]
    assert audit["longer_answer_wins"]["value"] == pytest.approx(np.mean(decided))


def test_the_size_of_a_batch_changes_nothing(synthetic, tmp_path):
    write_battles(tmp_path / "b.parquet", battle_table(synthetic))
    file, small = (open_battles(tmp_path / "b.parquet") for _ in range(2))
    batches = small.batches
    small.batches = lambda: batches(size=97)
    whole, parts = audit_battles(file), audit_battles(small)
    assert whole.audit() == parts.audit()
    assert whole.rows_with_injections().tolist() == parts.rows_with_injections().tolist()


def test_win_rates_have_intervals_over_prompts():
    won = np.arange(100) % 10 < 3
    rate = win_rate(won, np.arange(100))
    assert rate["n"] == 100 and rate["value"] == pytest.approx(0.3)
    assert (rate["low"], rate["high"]) == share_interval(won.astype(float), np.ones(100))
    together = win_rate(won, np.arange(100) % 10)  # ten rows a prompt, all won or all lost
    assert together["high"] - together["low"] > 2 * (rate["high"] - rate["low"])
    assert win_rate(won[:40], np.arange(40) // 10)["low"] is None  # four prompts
    assert win_rate(np.zeros(0, bool), np.zeros(0, int)) is None


def test_prompts_split_over_folds_are_counted_with_ids_and_none_are_when_the_folds_keep_them_together(
    synthetic, tmp_path
):
    leaks = audit_of(synthetic, tmp_path)["leaks"]
    assert leaks["rows_near_another_fold"] > 50 and leaks["jaccard_similarity"] == NEAR_SIMILARITY
    folds = {row["id"]: row["fold"] for row in synthetic}
    assert leaks["example_ids"] and all(folds[one] != folds[two] for one, two in leaks["example_ids"])
    alone = audit_of([{**row, "fold": 0} for row in synthetic], tmp_path)["leaks"]
    assert alone["rows_near_another_fold"] == alone["first_turns_in_two_folds"] == 0


def test_battles_without_a_fold_leak_to_none(tmp_path):
    rows = [battle(0, prompt="hello", fold=0), battle(1, prompt="hello", fold=None), battle(2, prompt="you", fold=1)]
    leaks = audit_of(rows, tmp_path)["leaks"]
    assert leaks["rows_near_another_fold"] == leaks["first_turns_in_two_folds"] == 0
    assert leaks["different_prompts"] == 2


def kinds(text: str) -> set[str]:
    table = battle_table([battle(0, prompt=text)])
    return set(find_injections(table["prompt"].combine_chunks().flatten()))


def test_planted_hostile_text_is_counted_field_by_field(synthetic, tmp_path):
    audit = audit_of(synthetic, tmp_path)["hostile_text"]
    for token in ("<|im_", "<start_of_turn>", "</Response_"):
        kind = next(iter(kinds({"<|im_": "<|im_end|>", "</Response_": "</Response_A>"}.get(token, token))))
        endings = [text for text in INJECTIONS if kind in kinds(text)]
        for name in FIELDS:
            rows = sum(any(ending in turn for turn in row[name] for ending in endings) for row in synthetic)
            assert audit[kind][name] == rows > 10


def test_the_share_over_a_total_is_the_share_that_a_budget_of_that_total_cuts(base, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "TOTALS", (200, 240, 4000))
    rows = synthetic[:150]
    write_battles(tmp_path / "b.parquet", battle_table(rows))
    assert main(["audit", str(tmp_path / "b.parquet"), "--output", str(tmp_path / "o"), "--model", str(base)]) == 0
    facts = json.loads((tmp_path / "o/audit.json").read_text())["tokens"][str(base)]
    prompt = open_prompt(str(base), "pair")
    for total in (200, 240, 4000):
        prompt.budget = Budget(10**6, 10**6, total)
        cut = sum(any(fields.cut.values()) for fields in prompt.fit(rows))
        assert facts["share_over"][str(total)] == cut / 150
    assert 0 < facts["share_over"]["240"] < facts["share_over"]["200"] and facts["share_over"]["4000"] == 0
    assert facts["longer"]["share"][-1] == 0
    assert "would be cut" in (tmp_path / "o/audit.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def secrets() -> list[dict]:
    """Battles whose every text holds a canary, with names that would like to be more than names."""
    names = {"source": SCRIPT, "model_a": f"{SCRIPT}\x1b[31m", "model_b": "b\u202em", "language": "<b>x</b>"}
    texts = [f"canary{i} {SCRIPT} " + "word " * (i * 60) for i in range(20)]
    return [battle(i, texts[i], f"a {texts[i]}", f"b {texts[i]}", "ab"[i % 2], fold=i % 2, **names) for i in range(20)]


def test_without_examples_no_character_of_a_text_is_in_any_output_and_with_them_it_is_text(secrets, tmp_path, capsys):
    write_battles(tmp_path / "b.parquet", battle_table(secrets))
    for name, more in (("one", []), ("two", []), ("shown", ["--examples", "6"])):
        assert main(["audit", str(tmp_path / "b.parquet"), "--output", str(tmp_path / name), *more]) == 0
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err and "\x1b" not in printed.out
    files = {file.name for file in (tmp_path / "one").iterdir()}
    assert {"audit.json", "audit.html"} <= files
    assert not [file for file in files if "canary" in (tmp_path / "one" / file).read_text(encoding="utf-8")]
    for file in ("audit.html", "audit.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert "canary" not in (tmp_path / "shown/audit.json").read_text(encoding="utf-8")
    page = (tmp_path / "shown/audit.html").read_text(encoding="utf-8")
    assert page.count("<details>") == page.count("<pre>") / 3 == 6
    assert_self_contained(page)
    assert "&lt;script&gt;" in page and "<b>x" not in page and "\u202e" not in page and "⟨U+202E⟩" in page
    longest = secrets[-1]["prompt"][0]
    limit = audit_page.LONGEST_TEXT
    assert len(longest) < limit < 20 * 60 * 5 or longest[: limit - 100] not in page
    assert max(map(len, re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL))) < limit + 100


def test_a_browser_opens_the_audit_without_a_console_error_and_names_and_texts_stay_text(secrets, tmp_path):
    write_battles(tmp_path / "b.parquet", battle_table(secrets))
    assert main(["audit", str(tmp_path / "b.parquet"), "--output", str(tmp_path / "o"), "--examples", "3"]) == 0
    shown = opened(tmp_path / "o/audit.html")
    assert shown.count("<svg") == 2 and shown.count("<details") == 3
    assert f"canary19 {SCRIPT}".replace("<", "&lt;").replace(">", "&gt;") in shown
    assert "<script" not in shown


def test_examples_are_the_longest_hostile_ones_and_others_and_never_one_twice():
    lengths = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 0])
    chosen = choose_examples(lengths, np.array([1, 3]), 6, seed=0)
    assert [row for row, why in chosen.items() if "longest" in why] == [2, 6]
    assert [row for row, why in chosen.items() if why == "text like control tokens"] == [1, 3]
    assert len(chosen) == 6 and chosen == choose_examples(lengths, np.array([1, 3]), 6, seed=0)
    assert chosen != choose_examples(lengths, np.array([1, 3]), 6, seed=1)
    assert len(choose_examples(lengths, np.array([], dtype=int), 50, seed=0)) == 10


def test_names_beyond_the_first_twenty_are_counted_together(tmp_path):
    rows = [battle(i, source=f"s{i % 30:02}", model_a=f"m{i % 30:02}", model_b="x") for i in range(90)]
    audit = audit_of(rows, tmp_path)
    table = audit_page.counts_table("source", audit["rows_by"]["source"])
    assert len(table.rows) == 21 and table.rows[-1][:2] == ["10 others", "30"]
    (models,) = audit_page.models_tables(audit["models"])
    assert models.rows[0][:2] == ["x", "90"] and models.rows[-1][:2] == ["11 others", "33"]


def test_bad_input_is_one_clear_line_and_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "garbage.parquet").write_bytes(bytes(range(256)))
    (tmp_path / "x.jsonl").write_text(json.dumps(battle(1, verdict="A")) + "\n")
    (tmp_path / "y.jsonl").write_text(json.dumps(battle(1)) + "\n")
    for name, said, more in (
        ("none.parquet", "no such", []),
        ("garbage.parquet", "not a readable", []),
        ("x.jsonl", "verdict 'A'", []),
        ("y.jsonl", "no such", ["--model", str(tmp_path / "nothing")]),
        ("y.jsonl", "not a positive number", ["--examples", "0"]),
    ):
        assert main(["audit", str(tmp_path / name), "--output", str(tmp_path / "o"), *more]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "o").exists()


def test_one_battle_has_an_audit_without_a_figure_that_cannot_be_known(synthetic, tmp_path):
    write_battles(tmp_path / "one.parquet", battle_table(synthetic[:1]))
    assert main(["audit", str(tmp_path / "one.parquet"), "--output", str(tmp_path / "audit")]) == 0
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text(), parse_constant=pytest.fail)
    assert audit["length_symmetry"]["p_value"] is None
