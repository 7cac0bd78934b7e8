"""Bad input to the stages behind the data: exit status 2, one line on standard error, and nothing written."""

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.resources import find_resource
from sft_judge.data.probs import Probs, write_probs
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """As the command line is; inside pytest transformers is imported before it can say so."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def judge(bases, tmp_path_factory):
    """A judge of random weights."""
    from sft_judge.modeling.loading import load_tokenizer

    folder = shutil.copytree(bases["qwen2"], tmp_path_factory.mktemp("judge") / "judge")
    template, words, budget = find_resource("prompts", "compact").read_text(), ["A", "B", "tie"], Budget(200, 200, 400)
    ids = JudgePrompt(load_tokenizer(str(folder)), template, words, budget).verdict_ids
    write_spec(folder, JudgeSpec(words, ids, template, budget, training={}))
    return folder


@pytest.fixture(scope="module")
def probs(synthetic_rows, tmp_path_factory):
    """A probs file of the synthetic battles, both orders."""
    ids = [row["id"] for row in synthetic_rows]
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 2 * len(ids)))
    path = tmp_path_factory.mktemp("probs") / "probs.parquet"
    write_probs(path, Probs(np.repeat(ids, 2), np.tile(["ab", "ba"], len(ids)), logp, {}))
    return path


@pytest.fixture
def places(judge, bases, probs, synthetic_file, tmp_path):
    """What a command may name. `taken` is a file; `two` is a judge whose verdict word has become two tokens."""
    (tmp_path / "taken").write_text("in the way")
    (tmp_path / "empty").mkdir()
    two = shutil.copytree(judge, tmp_path / "two")
    spec = json.loads((two / "judge.json").read_text())
    (two / "judge.json").write_text(json.dumps({**spec, "verdict_words": ["A", "B", "undecided, both"]}))
    named = {name: tmp_path / name for name in ("taken", "empty", "two", "out", "missing")}
    return named | {"judge": judge, "base": bases["qwen2"], "probs": probs, "battles": synthetic_file}


def tree(folder) -> dict:
    """All that stands in a folder, but for shards: prediction goes on from those that are finished."""
    paths = [path for path in folder.rglob("*") if ".shards.partial" not in str(path)]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


PREDICT = "predict --model {judge} --battles {battles} --output {out}"
MERGE = "merge {judge} --output {out}"
QUANTIZE = "quantize --model {judge} --battles {battles} --output {out} --seqlen 64 --nsamples 2 --iters 1"
VERIFY = "verify {judge} {judge} --battles {battles} --engines transformers"
JUDGE = "judge --model {judge} --prompt p --response-a a --response-b b"
PROMPT = "prompt show --model {judge} --battles {battles}"
BASE = "base --family qwen2 --battles {battles} --output {out} --vocab 400 --hidden 32 --positions 64"
CALIBRATE = "calibrate --probs {probs} --battles {battles} --model {judge}"
TRAIN = "train --config demo/student --model_name_or_path {base} --battles {battles} --output_dir {out}"

MISSING_BATTLES = [(c, "{battles}", "{missing}") for c in (PREDICT, QUANTIZE, VERIFY, PROMPT, BASE, CALIBRATE, TRAIN)]
MISSING_MODEL = [(c, "{judge}", "{missing}") for c in (PREDICT, MERGE, QUANTIZE, VERIFY, JUDGE, PROMPT, CALIBRATE)]
NO_MODEL = [(c, "{judge}", "{empty}") for c in (PREDICT, MERGE, QUANTIZE, VERIFY, JUDGE, PROMPT, CALIBRATE)]
NO_JUDGE = [(c, "{judge}", "{base}") for c in (PREDICT, MERGE, QUANTIZE, VERIFY, JUDGE, PROMPT, CALIBRATE)]
A_FILE = [(c, "{judge}", "{taken}") for c in (PREDICT, MERGE, QUANTIZE, VERIFY, JUDGE, PROMPT, CALIBRATE)]
BELOW_A_FILE = [(c, "{out}", "{taken}/out") for c in (PREDICT, MERGE, QUANTIZE, BASE, TRAIN)]
TWO_TOKENS = [(c, "{judge}", "{two}") for c in (PREDICT, QUANTIZE, VERIFY, JUDGE, PROMPT)]
NO_BATTLES = [(c, "{battles}", "{probs}") for c in (PREDICT, QUANTIZE, VERIFY, PROMPT, BASE, CALIBRATE, TRAIN)]
GARBAGE = [(c, "{battles}", "{taken}") for c in (PREDICT, QUANTIZE, VERIFY, PROMPT, BASE, CALIBRATE, TRAIN)]
OTHERS = [
    (TRAIN, "{base}", "{missing}"),
    (TRAIN, "{base}", "{empty}"),
    (CALIBRATE, "{probs}", "{missing}"),
    (CALIBRATE, "{probs}", "{battles}"),
    (TRAIN, "demo/student", "demo/studnet"),
]
EXPECTED = {
    "{missing}": "no such|not here|no judge.json",
    "{empty}": "not a model folder|no judge.json",
    "{base}": "no judge.json",
    "{two}": "undecided, both",
    "{taken}/out": "taken",
}
CASES = [
    *(MISSING_BATTLES + MISSING_MODEL + NO_MODEL + NO_JUDGE + A_FILE),
    *(BELOW_A_FILE + TWO_TOKENS + NO_BATTLES + GARBAGE + OTHERS),
]


def refused(line: str, places: dict, tmp_path, capsys) -> str:
    """Run a command that must be refused; the one line that it says."""
    before = tree(tmp_path), tree(places["judge"])
    capsys.readouterr()
    assert main([word.format(**places) for word in line.split()]) == 2
    error = capsys.readouterr().err
    said = [text for text in error.splitlines() if text.strip()]
    assert len(said) == 1 and said[0].startswith("sft-judge: ") and "Traceback" not in error, error
    assert (tree(tmp_path), tree(places["judge"])) == before
    return said[0]


@pytest.mark.parametrize("line, good, bad", CASES, ids=[f"{c.split()[0]}-{good}-{bad}" for c, good, bad in CASES])
def test_a_wrong_place_is_one_line_that_names_it(line, good, bad, places, tmp_path, capsys):
    said = refused(line.replace(good, bad), places, tmp_path, capsys)
    assert re.search(EXPECTED.get(bad, "."), said), said
    assert bad.removesuffix("/out").format(**places) in said


@pytest.mark.parametrize("line", [PREDICT, MERGE, QUANTIZE, VERIFY, JUDGE, PROMPT, BASE, CALIBRATE, TRAIN])
def test_a_misspelt_flag_is_one_line_that_names_the_nearest(line, places, tmp_path, capsys):
    flag = next(word for word in line.split() if word.startswith("--"))
    if flag == "--config":
        flag = "--battles"
    misspelt = flag[:-1]
    said = refused(line.replace(f"{flag} ", f"{misspelt} "), places, tmp_path, capsys)
    assert flag in said


@pytest.mark.parametrize("line", [MERGE, BASE, QUANTIZE, TRAIN])
def test_an_output_folder_that_is_a_file_stays_as_it_is(line, places, tmp_path, capsys):
    refused(line.replace("{out}", "{taken}"), places, tmp_path, capsys)


@pytest.mark.parametrize("line", [PREDICT, MERGE, BASE, CALIBRATE])
def test_a_full_disk_is_one_line_and_leaves_nothing_half(line, places, tmp_path, capsys, monkeypatch):
    def full(source, target, *args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    assert "No space left on device" in refused(line, places, tmp_path, capsys)


@pytest.mark.parametrize(
    "line, said",
    [
        (f"{PREDICT} --limit {10**20}", "argument --limit: 100000000000000000000 is above 2147483647"),
        (f"{BASE} --seed -1", "argument --seed: -1 is below zero"),
        (f"{BASE} --seed {2**32}", "argument --seed: 4294967296 is above 4294967295"),
        (f"{CALIBRATE} --fold {10**20}", "argument --fold: 100000000000000000000 is above 2147483647"),
        (f"{QUANTIZE} --seed -1", "argument --seed: -1 is below zero"),
        (f"import {{battles}} --output {{out}}.parquet --limit {10**20}", "is above 2147483647"),
        (f"{PREDICT} --time-budget {10**17}h", "is not between 1s and 8760h, which is a year"),
        (f"{PREDICT} --time-budget 0h", "is not between 1s and 8760h, which is a year"),
    ],
)
def test_a_number_that_is_too_large_or_too_small_is_one_line(line, said, places, tmp_path, capsys):
    assert said in refused(line, places, tmp_path, capsys)
