"""`predict --ray`: two actors on this machine, one of them killed, and the file that one process writes."""

import socket
import threading
import time

import numpy as np
import psutil
import pytest

from helpers.judges import make_judge, predict
from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.probs import read_probs
from sft_judge.inference import ray_actors
from sft_judge.inference import shards as prediction_work

pytestmark = pytest.mark.engine


def actors() -> list[psutil.Process]:
    """The processes of Ray's that hold an engine."""
    return [each for each in psutil.process_iter(["cmdline"]) if "BlockScorer" in " ".join(each.info["cmdline"] or [])]


def kill_one_of_two(folder, killed: list) -> None:
    """Wait until two actors are there and a block is on disk; then SIGKILL the actor that was there first."""
    until = time.monotonic() + 300
    while time.monotonic() < until and not killed:
        found = actors()
        if len(found) == 2 and list(folder.rglob("judge-0/*.npy")):
            found[0].kill()
            killed.append(found[0].pid)
        time.sleep(0.02)


@pytest.mark.full
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_an_actor_that_is_killed_loses_nothing(engine, bases, synthetic_file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(prediction_work, "ROWS_A_BLOCK", 4)
    judge = make_judge(tmp_path / "judge", bases["qwen2"])
    known = ["predict", "--model", str(judge), "--battles", str(synthetic_file), "--engine", engine]
    assert main([*known, "--output", str(tmp_path / "alone.parquet")]) == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    killed = []
    killer = threading.Thread(target=kill_one_of_two, args=(tmp_path, killed), daemon=True)
    killer.start()
    try:
        assert main([*known, "--output", str(tmp_path / "ray.parquet"), "--ray", cluster.address]) == 0
    finally:
        cluster.shutdown()
    assert killed and "Ray: 2 actors" in capsys.readouterr().out
    alone, scattered = (read_probs(tmp_path / f"{name}.parquet") for name in ("alone", "ray"))
    assert alone.ids.tolist() == scattered.ids.tolist() and alone.orders.tolist() == scattered.orders.tolist()
    np.testing.assert_allclose(np.exp(scattered.logp), np.exp(alone.logp), atol=1e-5)


def test_a_check_beside_ray_is_refused(bases, synthetic_file, tmp_path, capsys):
    judge = make_judge(tmp_path / "judge", bases["qwen2"])
    assert predict(judge, synthetic_file, tmp_path / "p.parquet", "--ray", "auto", "--check", "5") == 2
    assert "remove --ray" in capsys.readouterr().err and not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize("address", ["ray://127.0.0.1:{port}", "127.0.0.1:{port}", "127.0.0.1:999999"])
def test_an_address_without_an_answer_is_refused_at_once(address, bases, synthetic_file, tmp_path, capsys):
    pytest.importorskip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = address.format(port=unused.getsockname()[1])
    judge = make_judge(tmp_path / "judge", bases["qwen2"])
    start = time.monotonic()
    assert predict(judge, synthetic_file, tmp_path / "p.parquet", "--ray", address) == 2
    assert time.monotonic() - start < 15 and f"--ray {address}: no cluster answers" in capsys.readouterr().err


def test_a_port_on_which_something_else_listens_is_one_line_in_bounded_time(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_actors, "HEALTH_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(InputError, match=f"--ray {address}: no cluster answers"):
            ray_actors.connect(address)
    assert time.monotonic() - start < 15
