"""
Blocks of battles scored by actors on a Ray cluster, one engine each; the process that asks keeps what comes back.

Nothing but Ray is shared: the nodes need the package and the judge, by a path that is theirs or a hub id, and no disk.
An actor that dies is started again and its block goes to another; blocks that came back are on disk already.
"""

import logging
import os
import pickle
from collections.abc import Iterator

import numpy as np

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, one_line

logger = logging.getLogger(__name__)

CPU_SHARE = 0.4  # of a core for each actor without a GPU: Ray Data needs some for reading, or waits for ever


def score_on_ray(address: str, scorer: dict, blocks: list[tuple]) -> Iterator[tuple]:
    """
    Each (key, rows) of `blocks` as (key, un-swapped log-probabilities [rows, orders, K]), in the order of finishing.

    `scorer` has what `BlockScorer` takes. As many actors as the cluster has GPUs, else one a node.
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
    """An actor: its engine is started once, and scores one block a call."""

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
    """The module `ray`, connected. Raises `InputError` without Ray or a cluster."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError(f"Ray is not installed: {install_command('ray')}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing asks the network
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no cluster answers ({one_line(error)}). Start one: `ray start --head`."
        ) from error
    return ray
