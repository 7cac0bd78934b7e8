"""Battles that say little, through `evaluate`: a caveat and a report, no figure that is not a number."""

import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, write_probs

pytestmark = pytest.mark.unit


def evaluated(folder, verdicts, prompts, probs=None) -> tuple[dict, str]:
    """metrics.json, read as strictly as others read it, and the page, of two judges of such battles."""
    rng, count = np.random.default_rng(0), len(verdicts)
    rows = [
        {
            "id": f"{i}",
            "prompt": [f"p{i % prompts}"],
            "response_a": ["**x** " * rng.integers(1, 9)],
            "response_b": ["- y\n" * rng.integers(1, 9)],
            "verdict": VERDICTS[verdict],
            "language": ("English", "German")[i % 2],
            "model_a": "one",
            "model_b": "other",
        }
        for i, verdict in enumerate(verdicts)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    files = [folder / "first.parquet", folder / "second.parquet"]
    for file in files:
        said = rng.dirichlet([1, 1, 1], count) if probs is None else np.asarray(probs)
        write_probs(file, Probs(ids, np.full(count, "ab"), np.log(said), {"model": "m"}))
    words = ["evaluate", "--probs", *map(str, files), "--battles", str(folder / "battles.parquet"), "--quiet"]
    assert main([*words, "--output", str(folder / "out"), "--policies", "one", "other"]) == 0
    text = (folder / "out" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in metrics.json"))
    return metrics, (folder / "out" / "report.html").read_text()


FEW = {
    "one row": ([0], 1, "all battles have one prompt"),
    "two rows": ([0, 1], 2, "2 prompts are few"),
    "five rows": ([0, 1, 2, 0, 1], 5, "5 prompts are few"),
    "one prompt": ([0, 1, 2, 0, 1, 2] * 20, 1, "all battles have one prompt"),
    "two prompts": ([0, 1, 2, 0, 1, 2] * 20, 2, "2 prompts are few"),
    "one verdict": ([0] * 100, 50, "every verdict is a"),
    "ties alone": ([2] * 100, 50, "every verdict is tie"),
}


@pytest.mark.parametrize("case", FEW)
def test_battles_that_say_little_make_a_report_that_says_so(tmp_path, case):
    verdicts, prompts, caveat = FEW[case]
    metrics, page = evaluated(tmp_path, verdicts, prompts)
    assert caveat in " ".join(metrics["notes"]) and caveat in page
    assert metrics["n"] == len(verdicts) and metrics["log_loss"]["value"] > 0
    assert (metrics["log_loss"]["low"] is None) == (prompts == 1)
    effects = [effect[who]["value"] for effect in metrics["style"].values() for who in ("people", "judge")]
    assert all(effect is None for effect in effects)  # a alone is bold, b alone has lists: which of them sways?
