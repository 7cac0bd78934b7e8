"""Out of memory: the batch is halved and the numbers stay, or one line says what to set."""

import numpy as np
import pytest
import torch

from helpers.judges import predict
from sft_judge.data.probs import read_probs
from sft_judge.inference.engines.transformers_engine import TransformersEngine

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def judge(each_judge):
    return each_judge


def test_out_of_memory_halves_the_batch_and_the_numbers_stay(judge, synthetic_file, tmp_path, monkeypatch, capsys):
    assert predict(judge, synthetic_file, tmp_path / "whole.parquet") == 0
    forward, sizes = TransformersEngine._forward, []

    def small_memory(self, prompts):
        sizes.append(len(prompts) * max(map(len, prompts)))
        if sizes[-1] > 900:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return forward(self, prompts)

    monkeypatch.setattr(TransformersEngine, "_forward", small_memory)
    capsys.readouterr()
    assert predict(judge, synthetic_file, tmp_path / "halved.parquet") == 0
    assert "out of memory: using batches of" in capsys.readouterr().err
    refused = [size for size in sizes if size > 900]
    assert 0 < len(refused) <= 5 and sizes[: len(refused)] == refused  # then never again
    np.testing.assert_allclose(
        np.exp(read_probs(tmp_path / "halved.parquet").logp),
        np.exp(read_probs(tmp_path / "whole.parquet").logp),
        atol=1e-5,
    )


def test_one_battle_that_is_too_long_for_the_memory_says_what_to_set(
    judge, synthetic_file, tmp_path, monkeypatch, capsys
):
    def no_memory(self, prompts):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(TransformersEngine, "_forward", no_memory)
    capsys.readouterr()
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory with one battle" in error and "sft-judge quantize" in error
    assert "2.00 GiB. more lines)" in error  # all on the one line
    assert not (tmp_path / "probs.parquet").exists()
