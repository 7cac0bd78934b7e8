"""
An order for training in which every stretch has the verdicts and sources in the proportions of the whole (LMSYS Arena
write-up), so that no part of a run leans to one of them.
"""

import numpy as np

from sft_judge.core.errors import InputError

LENGTH_WINDOW = 200  # batches: 1,600 battles at 8 a batch


def fair_schedule(counts: list[int]) -> np.ndarray:
    """
    A sequence [sum(counts)] in which class c stands counts[c] times and every prefix of length m has less than one
    more or fewer of it than m * counts[c] / sum(counts).

    Tijdeman, The chairman assignment problem (Discrete Mathematics 32, 1980): of the classes that may have their turn,
    the one whose deadline comes first.
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
    Rows [M] of these sources [N], each source as often as its rate says: 0.25 keeps a quarter, 2 shows each row twice.

    Which rows a fraction keeps is drawn by the seed; the order stays. Raises `InputError` unless the rates name
    exactly the sources there are: none is left out in silence (0 leaves one out).
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
    A permutation [N] of rows with these verdicts and sources (any codes [N]), fixed by the seed.

    In every prefix each verdict is less than one row from its share, and so is each source among the rows of one
    verdict. Within verdict and source the rows are shuffled.
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
    An order [N] rearranged within windows of `batches` batches of `size` rows, so that lengths in a batch are close.

    Windows stay where they are, so what was balanced over any stretch stays so over windows; batches are shuffled
    within theirs, as a model should not see all short rows first.
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
    """Rows [n], each source's shuffled, the sources in fair turns."""
    names, codes = np.unique(sources[rows], return_inverse=True)
    schedule = fair_schedule(np.bincount(codes, minlength=len(names)).tolist())
    order = np.empty(len(rows), dtype=np.int64)
    for code in range(len(names)):
        order[schedule == code] = draw.permutation(rows[codes == code])
    return order
