"""How vLLM's engine starts: over several workers with the same numbers, or not at all, and then in a line."""

import os
import subprocess
import sys

import numpy as np
import pytest

from sft_judge.data.probs import read_probs

pytestmark = pytest.mark.engine


def predict(judge, battles, output, *more, **environment):
    words = ["predict", "--model", str(judge), "--battles", str(battles), "--limit", "12", "--engine", "vllm"]
    command = [sys.executable, "-m", "sft_judge", *words, "--output", str(output), *more]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


def test_a_vllm_without_enough_memory_says_so_in_a_line_with_what_to_set(judge, synthetic_file, tmp_path):
    done = predict(judge, synthetic_file, tmp_path / "probs.parquet", VLLM_CPU_KVCACHE_SPACE="100000")
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "vLLM does not start" in said and "--tensor-parallel" in said and "VLLM_CPU_KVCACHE_SPACE" in said
    assert not (tmp_path / "probs.parquet").exists()


@pytest.mark.full
def test_two_workers_that_share_the_layers_give_the_numbers_of_one(judge, synthetic_file, tmp_path):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert predict(judge, synthetic_file, one).returncode == 0
    done = predict(judge, synthetic_file, two, "--tensor-parallel", "2", VLLM_CPU_OMP_THREADS_BIND="0|1")
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.exp(read_probs(two).logp), np.exp(read_probs(one).logp), atol=1e-5)
