"""
Training orders in which every section has the verdicts and sources in their overall proportions.

No part of a run is then biased towards one of them (LMSYS Arena write-up).
"""

import numpy as np

from sft_judge.core.errors import InputError

LENGTH_WINDOW = 200  # batches; 1,600 battles with a batch size of 8


def fair_schedule(counts: list[int]) -> np.ndarray:
    """
    Build a sequence `[sum(counts)]` of classes whose every prefix has each class in its overall proportion.

    Class c occurs counts[c] times. In a prefix of length m its count differs by less than one from
    m * counts[c] / sum(counts). The method is Tijdeman's (The chairman assignment problem, Discrete Mathematics 32,
    1980): among the classes that may come next, take the class with the earliest deadline.
    """
    total, num = sum(counts), sum(count > 0 for count in counts)
    if num < 2:
        return np.repeat(np.arange(len(counts)), counts)
    shares = [(place, count / total) for place, count in enumerate(counts) if count]
    slack = 1 / (2 * num - 2)
    done = [0] * len(counts)
    sequence = np.empty(total, dtype=np.int64)
    for length in range(1, total + 1):
        owed = [(place, share, share * length - done[place]) for place, share in shares]
        due = [((1 - slack - debt) / share, place) for place, share, debt in owed if debt >= slack - 1e-9]
        place = min(due)[1] if due else max(owed, key=lambda item: item[2])[0]
        sequence[length - 1] = place
        done[place] += 1
    return sequence


def draw_mixture(sources: list[str], rates: dict[str, float], seed: int) -> np.ndarray:
    """
    Draw a mixture of sources: the rows `[M]` of the result, in their original order.

    Args:
        sources: source of each row `[N]`.
        rates: how often each source's rows occur; 0.25 keeps a random quarter, 2 repeats each row, 0 drops the source.
        seed: seed of the draw.

    Raises:
        InputError: the rates do not name exactly the sources that occur, so that no source is dropped silently.
    """
    there, codes = np.unique(np.array([str(source) for source in sources]), return_inverse=True)
    for name in {*there.tolist(), *rates}:
        if name not in rates or name not in there:
            present = ", ".join(there.tolist())
            raise InputError(f"mix names {', '.join(rates) or 'nothing'}, but the battles' sources are {present}.")
    draw = np.random.default_rng(seed)
    times = np.zeros(len(codes), dtype=np.int64)
    for code, name in enumerate(there.tolist()):
        rows = np.flatnonzero(codes == code)
        whole, part = divmod(float(rates[name]), 1)
        times[rows] = int(whole)
        times[draw.permutation(rows)[: round(part * len(rows))]] += 1
    return np.repeat(np.arange(len(codes)), times)


def balanced_order(verdicts: np.ndarray, sources: np.ndarray, seed: int) -> np.ndarray:
    """
    Compute a permutation `[N]` in which every prefix is balanced over verdicts and sources.

    In every prefix each verdict is less than one row from its share, and so is each source among the rows of one
    verdict. Rows with the same verdict and source are shuffled.

    Args:
        verdicts: verdict of each row `[N]`, as any codes.
        sources: source of each row `[N]`, as any codes.
        seed: seed of the shuffling.
    """
    draw = np.random.default_rng(seed)
    names, codes = np.unique(verdicts, return_inverse=True)
    queues = [_interleave(np.flatnonzero(codes == code), sources, draw) for code in range(len(names))]
    schedule = fair_schedule([len(queue) for queue in queues])
    order = np.empty(len(schedule), dtype=np.int64)
    for code, queue in enumerate(queues):
        order[schedule == code] = queue
    return order


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, size: int, seed: int, batches: int = LENGTH_WINDOW
) -> np.ndarray:
    """
    Rearrange an order within windows so that the rows of a batch have similar lengths.

    Windows keep their place, so a balanced order stays balanced over windows. Batches are shuffled within their
    window, because a model should not see all short rows first.

    Args:
        order: order of the rows `[N]`.
        lengths: length of each row `[N]`.
        size: batch size in rows.
        seed: seed of the shuffling.
        batches: number of batches per window.
    """
    draw = np.random.default_rng(seed)
    parts = []
    for start in range(0, len(order), size * batches):
        window = order[start : start + size * batches]
        window = window[np.argsort(-lengths[window], kind="stable")]
        whole = len(window) // size * size  # a short last batch must stay last
        parts += list(draw.permutation(window[:whole].reshape(-1, size))) + [window[whole:]]
    return np.concatenate(parts) if parts else order


def _interleave(rows: np.ndarray, sources: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return `rows` `[n]` with each source shuffled and the sources interleaved in proportion."""
    names, codes = np.unique(sources[rows], return_inverse=True)
    schedule = fair_schedule(np.bincount(codes, minlength=len(names)).tolist())
    order = np.empty(len(rows), dtype=np.int64)
    for code in range(len(names)):
        order[schedule == code] = draw.permutation(rows[codes == code])
    return order
