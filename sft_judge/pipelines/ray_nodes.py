"""
A sweep's steps on every node of a Ray cluster: Ray starts workers, and files tell them what is left to do.

The nodes share the disk and the working directory. A worker that dies lets go of its locks, and another takes its
step; the process that asked for them works too, so that the sweep ends even when all of them die.
"""

import logging
import os
from contextlib import contextmanager

from sft_judge.inference.ray_actors import connect

logger = logging.getLogger(__name__)


@contextmanager
def ray_workers(address: str, sweep: str, assignments: list[str], jobs: int | None):
    """
    While the block runs, the other nodes of the cluster at `address` (`auto`: the one this machine is in) work too.

    `jobs` at once on each node, by default one a GPU, else one a core. Raises `InputError` without Ray or a cluster.
    """
    ray = connect(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    logger.info(f"Ray: {len(others)} more nodes work on it")
    words = ["sweep", sweep, *(["--jobs", str(jobs)] if jobs else [])]
    words += [word for assignment in assignments for word in ("--set", assignment)]
    work = ray.remote(max_retries=0, num_cpus=0)(_work)
    tasks = [
        work.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(os.getcwd(), words)
        for node in others
    ]
    try:
        yield
    finally:
        for task in tasks:
            ray.cancel(task, force=True)
        ray.shutdown()


def _work(folder: str, words: list[str]) -> int:
    """On a node: the sweep's own command in the same folder, until nothing is left that it can do."""
    from sft_judge.cli import main

    os.chdir(folder)
    try:
        return main(words)
    except SystemExit as ended:  # Ray would take it for a crash
        return ended.code
