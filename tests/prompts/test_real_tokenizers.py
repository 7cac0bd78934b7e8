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
    "mistral": {"A": 1065, "B": 1066, "tie": 120950},
}
EVERY = [  # a prompt of a large vocabulary takes seconds to build
    pytest.param(name, template, marks=() if template == "pair" else pytest.mark.full, id=f"{name}-{template}")
    for name in VERDICTS
    for template in TEMPLATES
]


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


@functools.cache
def mistrals_own():
    """What Mistral's own package makes of the file that `mistral` was converted from."""
    package = pytest.importorskip("mistral_common")
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_file(str(Path(package.__file__).parent / "data" / "tekken_240911.json"))


def test_a_field_has_the_tokens_that_mistrals_own_package_gives_to_text():
    """Control tokens that are written in it too: both spell them out."""
    prompt, tekken = wide_prompt("mistral", "pair"), mistrals_own().instruct_tokenizer.tokenizer
    rng = random.Random(0)
    rows = [fuzzed(rng) for _ in range(100)]
    for turn in [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]:
        assert prompt.plain.encode(turn, add_special_tokens=False).ids == tekken.encode(turn, bos=False, eos=False)


def test_mistrals_control_tokens_are_those_of_its_own_package():
    tokenizer, tekken = tokenizer_of("mistral"), mistrals_own().instruct_tokenizer.tokenizer
    assert len(tokenizer) == tekken.n_words
    pieces = [tekken.id_to_piece(token) for token in range(tekken.num_special_tokens)]
    assert tokenizer.convert_ids_to_tokens(range(len(pieces))) == pieces
    assert control_ids(tokenizer) == set(range(len(pieces)))


@pytest.mark.parametrize("roles", ["user", "system user", "user assistant user", "system user assistant user"])
def test_a_chat_has_the_tokens_that_mistrals_own_package_gives_it(roles):
    own, tokenizer = mistrals_own(), tokenizer_of("mistral")
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    messages = [
        {"role": role, "content": f"The {role}, at {place}:\n ¿42?"} for place, role in enumerate(roles.split())
    ]
    wanted = own.encode_chat_completion(ChatCompletionRequest.from_openai(messages)).tokens
    assert tokenizer.apply_chat_template(messages)["input_ids"] == wanted
