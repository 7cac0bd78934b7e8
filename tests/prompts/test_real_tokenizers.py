"""
Tokenizers of real models with every template: verdicts, budget, cuts, exchange, hostile text.

`python scripts/fetch_tokenizers.py` fetches them into .tokenizers/; those that are not there are skipped.
"""

import copy
import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from helpers.injection import attack, fuzzed
from helpers.prompt_cases import TEMPLATES
from helpers.spelling import control_ids
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template
from sft_judge.prompts.verdict_tokens import choose_verdict_words

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2] / ".tokenizers"
VERDICTS = {  # as the tokenizers' own files have them
    "qwen3": {"A": 32, "B": 33, "tie": 48731},
    "gemma3": {"A": 236776, "B": 236799, "tie": 30024},
    "llama3.1": {"A": 32, "B": 33, "tie": 49831},
    "deepseek-v3": {"A": 35, "B": 36, "C": 37},  # "tie" is two tokens
    "smollm2": {"A": 49, "B": 50, "tie": 36521},
}
EVERY = [(name, template) for name in VERDICTS for template in TEMPLATES]


@functools.cache
def tokenizer_of(name: str):
    if not (ROOT / name).is_dir():
        pytest.skip(f"{name}: not fetched; python scripts/fetch_tokenizers.py")
    return load_tokenizer(str(ROOT / name))


@functools.cache
def wide_prompt(name: str, template: str) -> JudgePrompt:
    tokenizer, text = tokenizer_of(name), read_template(template)
    return JudgePrompt(tokenizer, text, choose_verdict_words(tokenizer, text, 3), Budget())


def prompt_of(name: str, template: str, *budget: int) -> JudgePrompt:
    prompt = copy.copy(wide_prompt(name, template))
    prompt.budget = Budget(*budget)
    return prompt


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_verdicts_are_single_tokens_of_the_tokenizers_own_file(name, template):
    prompt = prompt_of(name, template, 2048, 2048, 6400)
    assert dict(zip(prompt.words, prompt.verdict_ids, strict=True)) == VERDICTS[name]
    state = json.loads((ROOT / name / "tokenizer.json").read_text(encoding="utf-8"))
    assert all(state["model"]["vocab"][word] == token for word, token in VERDICTS[name].items())


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_hostile_text_is_data(name, template):
    rng = random.Random(name + template)
    total = attack(prompt_of(name, template, 150, 150, 900), [fuzzed(rng) for _ in range(40)])
    assert total["rows_in"] == total["rows out"] == 40
    held = ("control tokens from fields", "control tokens moved", "tags of ours", "moved slots")
    assert {what: total[what] for what in held if total[what]} == {}


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_control_tokens_of_its_own_written_into_a_battle_stay_text(name, template):
    prompt, tokenizer = prompt_of(name, template, 2048, 2048, 6400), tokenizer_of(name)
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip("▁ \t\r\n")]
    chosen = random.Random(0).sample(added, min(40, len(added)))
    row = {"prompt": ["".join(chosen)], "response_a": [chosen[0]], "response_b": [chosen[-1]], "language": None}
    fields = prompt.fit([row])[0]
    ids = [
        token for turns in (fields.prompt, fields.response_a, fields.response_b) for turn in turns for token in turn
    ]
    assert ids and control_ids(tokenizer).isdisjoint(ids)


@pytest.mark.parametrize(("name", "template"), EVERY)
def test_long_battles_fit_the_budget_and_the_exchange_of_responses_exchanges_the_prompt(name, template):
    prompt = prompt_of(name, template, 100, 100, 420)
    text = "Größe 3.14 мир 你好 🙂 the longest of answers. " * 60
    row = {"prompt": ["Why?"], "response_a": [text], "response_b": [text[::-1]], "language": None}
    other = {**row, "response_a": row["response_b"], "response_b": row["response_a"]}
    ab, ba = prompt.encode([row], ("ab", "ba"))[0]
    assert [ba, ab] == prompt.encode([other], ("ab", "ba"))[0]
    tail = prompt.frame(1, 1, 1, False).pieces[-1]
    for ids in (ab, ba):
        assert 200 < len(ids) < 420 and ids[-len(tail) :] == tail
    assert np.abs(len(ab) - len(ba)) <= 2
