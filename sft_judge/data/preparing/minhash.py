"""
Which texts are nearly the same: MinHash signatures (Broder 1997) of word pairs, compared within bands.

Pairs of neighbouring words, where the beginning and the end are words too: any one changed word costs two pairs, so
that texts of twelve words with one changed have 11 of 15 pairs in common, a similarity of 0.73. Of each hash the low
16 bits are kept (b-bit minwise hashing, Li and König 2010). Bands are sorted rather than indexed (Leskovec et al.,
Mining of Massive Datasets, section 3.4): a million texts take 256 MB.
"""

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np

PERMUTATIONS = 128  # 32 bands of 4: texts of Jaccard similarity 0.65 share one with probability 0.998
NEAR_SIMILARITY = (
    0.65  # estimated Jaccard similarity of texts that count as nearly the same; its standard error there is 0.04
)
NEIGHBOURS = 8  # in a band that many texts share, each is compared with the next eight and with the first
# a character of a script written without spaces is a word of its own
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")


def word_pairs(text: str) -> list[str]:
    """Neighbouring words without regard to case, with nothing before the first and after the last; else the text."""
    words = _WORD.findall(text.casefold())
    return [f"{one} {two}" for one, two in zip(["", *words], [*words, ""], strict=True)] if words else [text]


def signatures(texts: Iterable[str], chunk: int = 500) -> np.ndarray:
    """MinHash signatures [N, PERMUTATIONS] of texts, 16 bits each, by rensa; a chunk's pairs at a time in memory."""
    from rensa import RMinHash

    signed, texts = [np.empty((0, PERMUTATIONS), dtype=np.uint16)], iter(texts)
    while part := [word_pairs(text) for text in itertools.islice(texts, chunk)]:
        rows = RMinHash.digest_matrix_from_token_sets(part, PERMUTATIONS, 1).to_rows()
        signed.append(np.array(rows, dtype=np.uint32).astype(np.uint16))
    return np.concatenate(signed)


def similarity(signed: np.ndarray, left: np.ndarray, right: np.ndarray, chunk: int = 100_000) -> np.ndarray:
    """Estimated Jaccard similarity [M] of the texts with signatures `signed[left]` and `signed[right]`, both [M]."""
    parts = [slice(start, start + chunk) for start in range(0, len(left), chunk)]
    return np.concatenate([np.zeros(0), *((signed[left[part]] == signed[right[part]]).mean(axis=1) for part in parts)])


def near_pairs(
    bands: Iterable[np.ndarray], rank: np.ndarray, is_similar: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """
    Pairs [M, 2] of rows that have the same number in one of the `bands`, each [N], and are similar.

    Not every such pair of a large cluster is given, but enough to connect it. `rank` [N] orders the rows within a
    band, so that the result does not depend on the order in which they came, and within a pair.

    Args:
        is_similar: a mask [m] of pairs [m, 2].
    """
    num, found = len(rank), np.zeros(0, dtype=np.int64)  # pairs (i, j) as the number i * num + j
    for keys in bands:
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
    """Pairs [M, 2] of nearly the same texts by their signatures [N, PERMUTATIONS]: see `near_pairs`."""
    bands = signed.view(np.uint64).T
    return near_pairs(bands, rank, lambda pairs: similarity(signed, *pairs.T) >= NEAR_SIMILARITY)


def connect(num: int, *edges: np.ndarray) -> np.ndarray:
    """The connected component [num] of each node, of edges [M, 2]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.concatenate([np.asarray(edge, dtype=np.int64).reshape(-1, 2) for edge in edges])
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    return connected_components(graph, directed=False)[1]


def same_value_edges(values: np.ndarray) -> np.ndarray:
    """Edges [M, 2] that chain the places of equal values [N]."""
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(values[order][1:] == values[order][:-1])
    return np.stack([order[same], order[same + 1]], axis=1)
