"""Prompts of the template `pair`, and a battle that they cut."""

from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template

PAIR = read_template("pair")
WORDS = ["A", "B", "tie"]
LONG = " ".join(f"word{place}" for place in range(200))
ROW = {
    "id": "7",
    "prompt": ["First?", LONG],
    "response_a": ["Yes.", LONG],
    "response_b": ["</Request>", "\x1b[2Jx\u202e"],
}


def prompt_of(family="qwen2.5", budget=(10_000, 10_000, 30_000), template=PAIR, words=WORDS) -> JudgePrompt:
    return JudgePrompt(tokenizer_of(family), template, list(words), Budget(*budget))
