"""
Prediction on vLLM: the judge's paths against the winners' call and against one bare token, rows a second.

Tiny random models with the vocabularies of Qwen2 (152k) and Gemma-2 (256k), synthetic battles in both orders, prefix
caching on in every leg and its cache emptied before each. The winners' call is that of the WSDM Cup's solutions: two
passes of text, `allowed_token_ids`, the top ten log-probabilities. `bare` samples one token of the same token ids as
ours and returns no log-probability. The engine is ours and hands out logits, which spares the winners' call its
softmax too. All run in bfloat16, engines in processes of their own that take turns; their start is left out.
"""

import json
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from measuring import chosen, over_rounds

FAMILIES = {"qwen2": 152_064, "gemma2": 256_000}
GOALS = {"qwen2": ">= 1.5", "gemma2": ">= 1.0"}
LEGS = {"generate": ("generate", "winners", "bare"), "classify": ("classify",)}  # by the path of their engine
BATTLES, ROUNDS = 64, 9
PARTS = 6  # synthetic answers are short: so many make one


def make_judge(folder: Path, family: str, vocabulary: int, rows: list[dict]) -> None:
    """A random judge whose vocabulary is as wide as the family's own, its tokenizer small."""
    from transformers import set_seed

    from sft_judge.core.resources import find_resource
    from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
    from sft_judge.modeling.loading import load_model, load_tokenizer
    from sft_judge.modeling.tiny_models import make_base
    from sft_judge.prompts.prompt import JudgePrompt

    template = find_resource("prompts", "pair").read_text(encoding="utf-8")
    texts = [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    make_base(folder, family, [*texts, *[template] * 100], hidden=256, layers=4, vocab=2000, positions=2048)
    set_seed(0)
    model = load_model(str(folder))
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model.save_pretrained(folder)
    words, budget = ["A", "B", "tie"], Budget(600, 600, 1800)
    ids = JudgePrompt(load_tokenizer(str(folder)), template, words, budget).verdict_ids
    write_spec(folder, JudgeSpec(words, ids, template, budget))


class Legs:
    """One engine and the legs that it can run; a call is one pass over the prompts, its seconds returned."""

    def __init__(self, folder: Path, path: str):
        from vllm import SamplingParams

        from sft_judge.inference.engines.vllm_engine import VllmEngine
        from sft_judge.modeling.judge_spec import read_spec
        from sft_judge.modeling.loading import load_tokenizer

        spec, self.tokenizer = read_spec(folder), load_tokenizer(str(folder))
        self.engine = VllmEngine(str(folder), spec, "bfloat16", path)
        self.top = SamplingParams(max_tokens=1, temperature=0, logprobs=10, allowed_token_ids=spec.verdict_ids)
        self.one = SamplingParams(max_tokens=1, temperature=0)

    def seconds(self, leg: str, shown: list[list[list[int]]]) -> float:
        """`shown` [battles][orders][T]."""
        texts = [[self.tokenizer.decode(ids) for ids in order] for order in zip(*shown, strict=True)]
        prompts = [ids for both in shown for ids in both]
        self.engine._llm.reset_prefix_cache()
        start = time.perf_counter()
        if leg == "winners":
            for order in texts:
                self.engine._llm.generate(order, self.top, use_tqdm=False)
        elif leg == "bare":
            self.engine._llm.generate([{"prompt_token_ids": ids} for ids in prompts], self.one, use_tqdm=False)
        else:
            self.engine.score(prompts)
        return time.perf_counter() - start


def serve(pipe, folder: Path, path: str) -> None:
    """A process: seconds for each (leg, prompts) that comes; None ends it."""
    legs = Legs(folder, path)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        pipe.send(legs.seconds(*asked))
    legs.engine.__exit__()


def measure(family: str, folder: Path, rows: list[dict]) -> list[dict]:
    """The ratios of a family's legs."""
    from sft_judge.core.swap_orders import ORDERS
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import load_tokenizer
    from sft_judge.prompts.prompt import JudgePrompt

    prompt = JudgePrompt.of(load_tokenizer(str(folder)), read_spec(folder))
    shown = list(prompt.encode(rows, ORDERS))
    context, pipes = get_context("spawn"), {}
    for path in LEGS if family == "qwen2" else ["generate"]:  # a soft-cap leaves Gemma-2 the one path
        pipes[path], other = context.Pipe()
        context.Process(target=serve, args=(other, folder, path), daemon=True).start()
        assert pipes[path].recv() == "ready"
    legs = [(path, leg) for path in pipes for leg in LEGS[path]]
    taken = {leg: [] for _, leg in legs}
    for number in range(ROUNDS + 1):  # the first does not count
        for path, leg in legs if number % 2 else legs[::-1]:
            pipes[path].send((leg, shown[number * BATTLES : (number + 1) * BATTLES]))
            elapsed = pipes[path].recv()
            if number:
                taken[leg].append(elapsed)
    for pipe in pipes.values():
        pipe.send(None)
    return report(family, taken, sum(len(ids) for both in shown for ids in both) / (2 * len(shown)))


def report(family: str, taken: dict[str, list[float]], tokens: float) -> list[dict]:
    """Ratios of rates, medians over rounds; the rates themselves go to standard error."""
    import numpy as np

    def ratio(name: str, ours: str, other: str, goal: str) -> dict:
        values = np.array(taken[other]) / np.array(taken[ours])
        return over_rounds(f"{name}, {family}", lambda rounds: np.median(values[rounds]), ROUNDS, goal)

    rates = ", ".join(f"{leg} {2 * BATTLES / np.median(seconds):.1f}" for leg, seconds in taken.items())
    print(f"  {family}: rows a second {rates}; {tokens:.0f} tokens a row", file=sys.stderr, flush=True)
    ours = "classify" if "classify" in taken else "generate"
    results = [
        ratio("prediction against the winners' call, rows a second", ours, "winners", GOALS[family]),
        ratio("prediction against one bare token, rows a second", ours, "bare", ">= 0.9"),
    ]
    if ours == "classify":
        results.append(ratio("classify path against generate path, rows a second", ours, "generate", ">= 1.0"))
    return results


def long_battles(count: int) -> list[dict]:
    """Distinct battles whose answers have the length of real ones."""
    from sft_judge.data.synthetic.generator import generate_split
    from sft_judge.data.synthetic.preference_model import preset_settings

    drawn = generate_split(preset_settings("full", rows=count * PARTS, test_rows=1, shifted_rows=1), "train").rows
    battles = []
    for start in range(0, len(drawn), PARTS):
        parts = drawn[start : start + PARTS]
        answers = {name: [" ".join(part[name][0] for part in parts)] for name in ("response_a", "response_b")}
        battles.append({**parts[0], **answers})
    return battles


def main() -> None:
    families = chosen(__doc__, FAMILIES)
    rows, results = long_battles(BATTLES * (ROUNDS + 1)), []
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            make_judge(Path(folder), family, FAMILIES[family], rows)
            results += measure(family, Path(folder), rows)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
