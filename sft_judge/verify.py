"""`sft-judge verify`: one judge on several engines, or two forms of a judge, on the same prompts."""

from pathlib import Path

import numpy as np

from sft_judge.battles.schema import read_battles
from sft_judge.engines import open_engine
from sft_judge.errors import InputError
from sft_judge.models import dtype_of, load_tokenizer
from sft_judge.parity import TOLERANCES, compare, hold, hold_log_loss, log_loss_rise
from sft_judge.predict import orders_of, score_battles
from sft_judge.prompts import JudgePrompt
from sft_judge.spec import read_spec
from sft_judge.verdicts import VERDICTS


def verify_engines(model: str, battles: Path, engines: list[str], dtype: str, rows: int) -> dict:
    """Hold engines to the first named one on the first `rows` battles. Prints; raises `GateError` beyond tolerance."""
    precision = dtype_of(model, dtype)
    facts = {"dtype": precision}
    if len(engines) == 1:
        return facts
    scored, labels = _score(model, battles, engines, dtype, rows)
    for engine in engines[1:]:
        parity = compare(
            f"{model}, {engines[0]} against {engine} ({precision})", scored[engines[0]], scored[engine], labels
        )
        print(parity)
        hold(parity, TOLERANCES["engines", precision])
        facts[engine] = parity.max_difference
    return facts


def verify_forms(model: str, other: str, battles: Path, engines: list[str], dtype: str, rows: int) -> dict:
    """
    Hold a second form of a judge (quantised, say) to the first by its paired rise of the log loss on labelled battles.

    Both are compared on the first engine named; the second form is held to itself on the others. Prints; raises
    `GateError`.
    """
    verdicts = [VERDICTS.index(v) if v else -1 for v in read_battles(battles, rows)["verdict"].to_pylist()]
    if -1 in verdicts:
        raise InputError(f"{battles}: {verdicts.count(-1)} battles have no verdict; a log loss needs them all.")
    facts = verify_engines(other, battles, engines, dtype, rows)
    first, labels = _score(model, battles, engines[:1], dtype, rows)
    second, _ = _score(other, battles, engines[:1], dtype, rows)
    scored = [first[engines[0]], second[engines[0]]]
    print(compare(f"{model} against {other}", *scored, labels))
    orders = len(labels) // len(verdicts)
    averaged = [np.log(np.exp(logp).reshape(len(verdicts), orders, -1).mean(axis=1)) for logp in scored]
    rise = log_loss_rise(*averaged, np.array(verdicts))
    print(f"log loss {rise[0]:+.4f} [{rise[1]:+.4f}, {rise[2]:+.4f}] on {len(verdicts)} battles")
    hold_log_loss(other, rise)
    return {**facts, "log_loss_rise": rise, "rows": len(verdicts)}


def _score(model: str, battles: Path, engines: list[str], dtype: str, rows: int) -> tuple[dict, list[str]]:
    """Log-probabilities [rows * orders, K] by engine, and the label of each row."""
    spec = read_spec(model)
    prompt = JudgePrompt.of(load_tokenizer(model), spec)
    table = read_battles(battles, rows).to_pylist()
    orders = orders_of(spec.swap)
    scored = {}
    for name in engines:
        with open_engine(name, model, spec, dtype) as engine:
            scored[name] = score_battles(engine, prompt, table, orders).reshape(-1, spec.num_verdicts)
    return scored, [f"{row['id']} {order}" for row in table for order in orders]
