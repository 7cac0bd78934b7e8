"""
Workers on every node of a Ray cluster for a sweep: Ray starts them, and files tell them which steps are left.

The nodes share the disk and the working directory. A worker that dies releases its locks, and another worker takes its
step. The process that started the workers works too, so the sweep finishes even if all workers die.
"""

import logging
import os
from contextlib import contextmanager

from sft_judge.inference.ray_actors import connect

logger = logging.getLogger(__name__)


@contextmanager
def ray_workers(address: str, sweep: str, assignments: list[str], jobs: int | None):
    """
    Let the other nodes of a Ray cluster work on a sweep while the block runs.

    Args:
        address: address of the cluster; `auto` is the cluster of this machine.
        sweep: the sweep file.
        assignments: values of `--set`.
        jobs: steps at once on each node; None is one per GPU, or one per core without GPUs.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    ray = connect(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    logger.info(f"Ray: {len(others)} more nodes work on the sweep")
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
    """Run the sweep's own command on a node, in the same folder, until no step is left for it."""
    from sft_judge.cli import main

    os.chdir(folder)
    try:
        return main(words)
    except SystemExit as ended:  # Ray would treat it as a crash
        return ended.code
