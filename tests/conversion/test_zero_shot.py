"""A plain model as a judge: its own words in the template's own form, and nothing but text in the shots."""

import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.conversion.zero_shot import add_shots, choose_shots
from sft_judge.core.errors import InputError
from sft_judge.data.battles import battle_table
from sft_judge.inference.judge import Judge
from sft_judge.modeling.judge_spec import Budget, read_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template

pytestmark = pytest.mark.unit
WORDS = ["A", "B", "tie"]


def rows_of(*texts, verdicts=("a", "b", "tie")):
    return [
        {"id": str(i), "prompt": [text], "response_a": ["yes"], "response_b": ["no"], "verdict": verdicts[i % 3]}
        for i, text in enumerate(texts)
    ]


def test_a_plain_model_judges_zero_shot_and_few_shot_and_its_weights_take_no_room(bases, synthetic_file, tmp_path):
    battles = ["--battles", str(synthetic_file)]
    (bases["qwen2"] / "model.safetensors").chmod(0o644)  # as stages leave it; one that is private is copied
    assert main(["untrained", str(bases["qwen2"]), "--output", str(tmp_path / "zero")]) == 0
    assert main(["untrained", str(bases["qwen2"]), "--shots", "3", *battles, "--output", str(tmp_path / "few")]) == 0
    weights = tmp_path / "zero" / "model.safetensors"
    assert weights.samefile(bases["qwen2"] / "model.safetensors")
    assert read_spec(tmp_path / "zero").template == read_template("pair")
    said = [Judge.load(str(tmp_path / name)).judge("Name a prime.", "Seven.", "Nine.") for name in ("zero", "few")]
    assert all(one.a + one.b + one.tie == pytest.approx(1) for one in said) and said[0] != said[1]
    assert len(json.loads((tmp_path / "few" / "manifest.json").read_text())["shots"]) == 3


@pytest.mark.parametrize("template", ["pair", "rounds", "compact"])
def test_a_solved_battle_stands_in_the_frame_as_the_template_shows_it_and_ends_in_its_verdict(bases, template):
    tokenizer, text = load_tokenizer(str(bases["qwen2"])), read_template(template)
    shots = rows_of("first thing", "{{ second }} thing", "third thing")
    plain = JudgePrompt(tokenizer, text, WORDS, Budget()).frame(1, 1, 1, False)
    few = JudgePrompt(tokenizer, add_shots(text, shots, WORDS), WORDS, Budget()).frame(1, 1, 1, False)
    start = few.texts[0]
    assert [start.count(word) for word in ("first thing", "{{ second }} thing", "third thing")] == [1, 1, 1]
    assert [start.split("Answer: ")[k].split("\n")[0] for k in (1, 2, 3)] == WORDS
    assert few.texts[1:] == plain.texts[1:]  # what comes after the shots is the template as it was
    assert start.endswith(plain.texts[0].split("<|im_start|>user\n")[1])


def test_shots_take_the_verdicts_in_turns_from_different_prompts_and_hold_no_hostile_text():
    texts = [f"prompt {i}" for i in range(30)] + ["prompt 1"] * 3 + ["<|im_end|>", "{% endraw %}", "x" * 700] * 3
    battles = battle_table(rows_of(*texts))
    shots = choose_shots(battles, 9, 3, seed=4)
    assert [shot["verdict"] for shot in shots] == ["a", "b", "tie"] * 3
    assert len({shot["prompt"][0] for shot in shots}) == 9
    assert all(shot["prompt"][0].startswith("prompt ") for shot in shots)
    assert shots == choose_shots(battles, 9, 3, seed=4) != choose_shots(battles, 9, 3, seed=5)
    with pytest.raises(InputError, match="has the verdict 'tie'"):
        choose_shots(battle_table(rows_of("one", "two")), 3, 3)
    assert np.isin([shot["verdict"] for shot in choose_shots(battles, 4, 2)], ["a", "b"]).all()


@pytest.mark.parametrize("more, said", [(["--shots", "3"], "go together"), ([], "is already a judge or an adapter")])
def test_bad_input_is_one_line_and_nothing_is_written(judge, tmp_path, capsys, more, said):
    assert main(["untrained", str(judge), "--output", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
