"""
Score blocks of battles with actors on a Ray cluster, one engine each; the calling process stores the results.

The nodes share nothing but Ray: each needs the package and the judge (a path on the node or a Hub id), and no shared
disk. If an actor dies it is restarted and another actor takes its block. Finished blocks are already on disk.
"""

import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, one_line

logger = logging.getLogger(__name__)

MAX_PORT = 65_535
PORT_SECONDS = 10  # for a connection to a cluster
HEALTH_SECONDS = 30  # for `ray health-check`, most of which is the import of Ray
CPU_SHARE = 0.4  # of a core for each actor without a GPU; Ray Data needs the rest for reading, or waits for ever


def score_on_ray(address: str, scorer: dict, blocks: list[tuple]) -> Iterator[tuple]:
    """
    Score blocks on a Ray cluster, with one actor for each GPU, or one for each node if there is no GPU.

    Args:
        address: address of the cluster.
        scorer: arguments of `BlockScorer`.
        blocks: (key, rows) of each block.

    Yields:
        (key, log-probabilities [rows, orders, K]) in the order of completion. The log-probabilities are un-swapped (a
        is the battle's own response_a in every order).
    """
    ray = connect(address)
    from ray.data import ActorPoolStrategy, DataContext

    try:
        DataContext.get_current().enable_progress_bars = False
        gpus = int(ray.cluster_resources().get("GPU", 0))
        actors = gpus or sum(node["Alive"] for node in ray.nodes())
        resources = {"num_gpus": 1} if gpus else {"num_cpus": CPU_SHARE}
        logger.info(f"Ray: {min(actors, len(blocks))} actors")
        items = [{"place": place, "rows": pickle.dumps(rows)} for place, (_, rows) in enumerate(blocks)]
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            BlockScorer,
            fn_constructor_kwargs=scorer,
            batch_size=1,
            compute=ActorPoolStrategy(size=min(actors, len(blocks))),
            max_restarts=-1,
            max_task_retries=-1,
            **resources,
        )
        for row in scored.iter_rows():
            yield blocks[row["place"]][0], pickle.loads(row["logp"])
    finally:
        ray.shutdown()


class BlockScorer:
    """Score one block per call in a Ray actor, whose engine is started once."""

    def __init__(self, folder: str, engine: str, dtype: str, orders: tuple[str, ...]):
        from sft_judge.inference.engines import open_engine
        from sft_judge.modeling.judge_spec import read_spec
        from sft_judge.modeling.loading import load_tokenizer
        from sft_judge.prompts.prompt import JudgePrompt

        spec = read_spec(folder)
        self.engine = open_engine(engine, folder, spec, dtype)
        self.prompt, self.orders = JudgePrompt.of(load_tokenizer(folder), spec), orders

    def __call__(self, batch: dict) -> dict:
        from sft_judge.inference.scoring import score_battles

        (rows,) = batch["rows"]
        logp = score_battles(self.engine, self.prompt, pickle.loads(rows), self.orders)
        return {"place": batch["place"], "logp": np.array([pickle.dumps(logp)], dtype=object)}


def connect(address: str):
    """
    Connect to a Ray cluster and return the module `ray`.

    Args:
        address: `auto`, HOST:PORT or ray://HOST:PORT. Ray itself waits for minutes if nothing answers there.

    Raises:
        InputError: Ray or the cluster is missing.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(f"Ray is not installed: {install_command('ray')}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing asks the network
    try:
        _check_port(address)
        ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no cluster answers ({one_line(error)}). Start one: `ray start --head`."
        ) from error
    return ray


def _check_port(address: str) -> None:
    """Raise an `OSError` or `ValueError` if no program listens at HOST:PORT; other addresses are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        if int(port) > MAX_PORT:
            raise ValueError(f"the port is {port}, expected at most {MAX_PORT}")
        socket.create_connection((host.strip("[]"), int(port)), timeout=PORT_SECONDS).close()
        if not address.startswith("ray://"):
            _check_health(address)


def _check_health(address: str) -> None:
    """Raise a `RuntimeError` unless a Ray cluster answers `ray health-check` at HOST:PORT in time."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=HEALTH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer of a cluster within {HEALTH_SECONDS} s") from error
    if done.returncode:
        raise RuntimeError("`ray health-check` finds no healthy cluster there")
