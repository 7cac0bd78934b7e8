"""
Near-duplicate search: MinHash signatures (Broder 1997) of word pairs, compared within bands.

A text is the set of its pairs of neighbouring words, with the beginning and the end counted as words. Any changed word
thus costs two pairs: two texts of twelve words with one changed word share 11 of 15 pairs, a similarity of 0.73. The
low 16 bits of each hash are kept (b-bit minwise hashing, Li and König 2010). Bands are sorted instead of indexed
(Leskovec et al., Mining of Massive Datasets, section 3.4), so the signatures of a million texts take 256 MB.
"""

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np

PERMUTATIONS = 128  # 32 bands of 4: texts of Jaccard similarity 0.65 share one with probability 0.998
NEAR_SIMILARITY = 0.65  # estimated Jaccard similarity of near-duplicates; the estimate's standard error is 0.04 here
NEIGHBOURS = 8  # in a band that many texts share, each text is compared with the next eight and with the first
# each character of a script without spaces counts as a word
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")


def word_pairs(text: str) -> list[str]:
    """
    Return pairs of neighbouring words, case-insensitive and padded at both ends; the text itself if it has no words.
    """
    words = _WORD.findall(text.casefold())
    return [f"{one} {two}" for one, two in zip(["", *words], [*words, ""], strict=True)] if words else [text]


def signatures(texts: Iterable[str], chunk: int = 500) -> np.ndarray:
    """
    Compute 16-bit MinHash signatures `[N, PERMUTATIONS]` of texts with rensa.

    Args:
        texts: the texts, may be a stream.
        chunk: number of texts whose word pairs are in memory at a time.
    """
    from rensa import RMinHash

    signed, texts = [np.empty((0, PERMUTATIONS), dtype=np.uint16)], iter(texts)
    while part := [word_pairs(text) for text in itertools.islice(texts, chunk)]:
        rows = RMinHash.digest_matrix_from_token_sets(part, PERMUTATIONS, 1).to_rows()
        signed.append(np.array(rows, dtype=np.uint32).astype(np.uint16))
    return np.concatenate(signed)


def similarity(signed: np.ndarray, left: np.ndarray, right: np.ndarray, chunk: int = 100_000) -> np.ndarray:
    """
    Estimate the Jaccard similarity `[M]` of pairs of texts.

    Args:
        signed: signatures of all texts.
        left: rows of the first texts `[M]`.
        right: rows of the second texts `[M]`.
        chunk: number of pairs compared at a time.
    """
    parts = [slice(start, start + chunk) for start in range(0, len(left), chunk)]
    return np.concatenate([np.zeros(0), *((signed[left[part]] == signed[right[part]]).mean(axis=1) for part in parts)])


def near_pairs(
    bands: Iterable[np.ndarray], rank: np.ndarray, is_similar: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """
    Find pairs `[M, 2]` of rows that share a key in one of the `bands` and are similar.

    In a large cluster not every such pair is returned, but enough pairs to connect the cluster.

    Args:
        bands: keys of the rows in each band, `[N]` each.
        rank: order of the rows within a band and within a pair `[N]`, so that the result does not depend on the order
            of the rows.
        is_similar: function from pairs `[m, 2]` to a mask `[m]`.
    """
    num, found = len(rank), np.zeros(0, dtype=np.int64)  # a pair (i, j) is stored as the number i * num + j
    for keys in bands:
        # Sort the rows by key and rank: rows with the same key become a run, and `first` is the start of each row's
        # run. Compare each row with the next NEIGHBOURS rows of its run, and rows further back with the run's start.
        order = np.lexsort((rank, keys))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, num]))
        places = np.arange(num)
        met = []
        for step in range(1, NEIGHBOURS + 1):
            there = np.flatnonzero(first[step:] == first[:-step]) if step < num else places[:0]
            met.append(order[there] * num + order[there + step])
        far = np.flatnonzero(places - first > NEIGHBOURS)
        met.append(order[first[far]] * num + order[far])
        new = np.setdiff1d(np.concatenate(met), found)
        found = np.concatenate([found, new[is_similar(np.stack(np.divmod(new, num), axis=1))]])
    return np.stack(np.divmod(found, num), axis=1)


def near_texts(signed: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """
    Find pairs `[M, 2]` of near-duplicate texts, see `near_pairs`.

    Args:
        signed: signatures `[N, PERMUTATIONS]`.
        rank: order of the texts `[N]`.
    """
    bands = signed.view(np.uint64).T
    return near_pairs(bands, rank, lambda pairs: similarity(signed, *pairs.T) >= NEAR_SIMILARITY)


def connect(num: int, *edges: np.ndarray) -> np.ndarray:
    """
    Compute the connected component of each node `[num]`.

    Args:
        num: number of nodes.
        *edges: edges `[M, 2]`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate([np.asarray(edge, dtype=np.int64).reshape(-1, 2) for edge in edges])
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    return connected_components(graph, directed=False)[1]


def same_value_edges(values: np.ndarray) -> np.ndarray:
    """Return edges `[M, 2]` that chain the positions of equal values `[N]`."""
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(values[order][1:] == values[order][:-1])
    return np.stack([order[same], order[same + 1]], axis=1)
