"""What a training takes from the machine: of several visible GPUs, one process uses one."""

import os

import pytest
import torch

from sft_judge.training.machine_defaults import prepare_launch

pytestmark = pytest.mark.unit


@pytest.fixture
def gpus(monkeypatch):
    """A machine with four GPUs, as torch counts them before it has touched one."""
    for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return 4 if visible is None else len([name for name in visible.split(",") if name])

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    yield monkeypatch
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def test_one_process_uses_one_of_several_gpus_and_says_so(gpus, caplog):
    prepare_launch()
    assert torch.cuda.device_count() == 1 and "one is used, 0" in caplog.text


def test_of_those_that_the_user_chose_it_is_the_first(gpus, caplog):
    gpus.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    prepare_launch()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_launched_process_and_one_with_a_single_gpu_are_left_alone(gpus, caplog):
    gpus.setenv("WORLD_SIZE", "4")
    prepare_launch()
    gpus.delenv("WORLD_SIZE")
    gpus.setenv("CUDA_VISIBLE_DEVICES", "3")
    prepare_launch()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3" and not caplog.text
