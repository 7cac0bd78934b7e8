"""
Compare prediction on vLLM with the WSDM Cup winners' calls and with sampling one token, in rows per second.

Models are tiny and random, with the vocabulary sizes of Qwen2 (152k) and Gemma-2 (256k). Battles are synthetic, in
both orders. Prefix caching is on, and its cache is emptied before each leg. `winners` is the call of the WSDM Cup's
solutions: two passes over text, `allowed_token_ids`, the top ten log-probabilities. `bare` samples one token for the
same token ids as ours, without log-probabilities. All legs use our engine, which returns logits; this saves a softmax
in `winners` too. All run in bfloat16. Engines are in separate processes that run alternately; their start is not
measured.
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
PARTS = 6  # synthetic answers are short: this many are joined to one


def make_judge(folder: Path, family: str, vocabulary: int, rows: list[dict]) -> None:
    """
    Write a random judge with the vocabulary size of the family and a small tokenizer.

    Args:
        folder: folder to write.
        family: family of the model.
        vocabulary: rows of the embeddings.
        rows: battles whose text trains the tokenizer.
    """
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
    """Hold one engine and time the legs that it can run."""

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
        """
        Time one pass over the prompts.

        Args:
            leg: of LEGS.
            shown: token ids [battles][orders][T].
        """
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
    """
    Answer each (leg, prompts) from a pipe with its seconds, until None; runs in a separate process.

    Args:
        pipe: connection to the main process.
        folder: folder of the judge.
        path: path of the engine.
    """
    legs = Legs(folder, path)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        pipe.send(legs.seconds(*asked))
    legs.engine.__exit__()


def measure(family: str, folder: Path, rows: list[dict]) -> list[dict]:
    """
    Measure the legs of a family, and return the results for `bench.py`.

    Args:
        family: of FAMILIES.
        folder: folder of the judge.
        rows: battles.
    """
    from sft_judge.core.swap_orders import ORDERS
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import load_tokenizer
    from sft_judge.prompts.prompt import JudgePrompt

    prompt = JudgePrompt.of(load_tokenizer(str(folder)), read_spec(folder))
    shown = list(prompt.encode(rows, ORDERS))
    context, pipes = get_context("spawn"), {}
    for path in LEGS if family == "qwen2" else ["generate"]:  # Gemma-2 soft-caps its logits, so only one path works
        pipes[path], other = context.Pipe()
        context.Process(target=serve, args=(other, folder, path), daemon=True).start()
        assert pipes[path].recv() == "ready"
    legs = [(path, leg) for path in pipes for leg in LEGS[path]]
    taken = {leg: [] for _, leg in legs}
    for number in range(ROUNDS + 1):  # the first is a warm-up
        for path, leg in legs if number % 2 else legs[::-1]:
            pipes[path].send((leg, shown[number * BATTLES : (number + 1) * BATTLES]))
            elapsed = pipes[path].recv()
            if number:
                taken[leg].append(elapsed)
    for pipe in pipes.values():
        pipe.send(None)
    return report(family, taken, sum(len(ids) for both in shown for ids in both) / (2 * len(shown)))


def report(family: str, taken: dict[str, list[float]], tokens: float) -> list[dict]:
    """
    Print the rates on standard error, and return their ratios as medians over rounds.

    Args:
        family: of FAMILIES.
        taken: seconds of each leg in each round.
        tokens: mean tokens per row.
    """
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
    """Return `count` different battles with answers as long as real ones."""
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
