"""
Which texts are nearly the same: MinHash signatures (Broder 1997) of word triples, compared within bands.

Of each hash the low 16 bits are kept (b-bit minwise hashing, Li and König 2010), so four of them, a band, are one
64-bit number. Bands are sorted rather than indexed (Leskovec et al., Mining of Massive Datasets, section 3.4): a
million texts take 256 MB.
"""

import itertools
import re
from collections.abc import Iterable

import numpy as np

PERMUTATIONS = 128  # 32 bands of 4: texts of Jaccard similarity 0.7 share one with probability 0.9998
NEAR_SIMILARITY = (
    0.7  # estimated Jaccard similarity of texts that count as nearly the same; its standard error there is 0.04
)
NEIGHBOURS = 8  # in a band that many texts share, each is compared with the next eight and with the first
# a character of a script written without spaces is a word of its own
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\\w+")


def word_triples(text: str) -> list[str]:
    """Runs of three words without regard to case; all words as one where there are fewer, or the text without any."""
    words = _WORD.findall(text.casefold())
    if len(words) < 3:
        return [" ".join(words) or text]
    return [" ".join(triple) for triple in zip(words, words[1:], words[2:], strict=False)]


def signatures(texts: Iterable[str], chunk: int = 500) -> np.ndarray:
    """MinHash signatures [N, PERMUTATIONS] of texts, 16 bits each, by rensa; a chunk's triples at a time in memory."""
    from rensa import RMinHash

    signed, texts = [np.empty((0, PERMUTATIONS), dtype=np.uint16)], iter(texts)
    while part := [word_triples(text) for text in itertools.islice(texts, chunk)]:
        rows = RMinHash.digest_matrix_from_token_sets(part, PERMUTATIONS, 1).to_rows()
        signed.append(np.array(rows, dtype=np.uint32).astype(np.uint16))
    return np.concatenate(signed)


def near_pairs(signed: np.ndarray, rank: np.ndarray, least: float = NEAR_SIMILARITY) -> np.ndarray:
    """
    Pairs [M, 2] of rows of `signed` [N, PERMUTATIONS] whose estimated similarity is at least `least`.

    Not every such pair of a large cluster is given, but enough to connect it. `rank` [N] orders the rows within a
    band, so that the result does not depend on the order in which they came.
    """
    pairs = []
    for keys in signed.view(np.uint64).T:
        order = np.lexsort((rank, keys))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
        places = np.arange(len(keys))
        for step in range(1, NEIGHBOURS + 1):
            there = np.flatnonzero(first[step:] == first[:-step]) if step < len(keys) else places[:0]
            pairs.append(np.stack([order[there], order[there + step]], axis=1))
        far = np.flatnonzero(places - first > NEIGHBOURS)
        pairs.append(np.stack([order[first[far]], order[far]], axis=1))
        pairs = [_unique_similar(np.concatenate(pairs), signed, least)]
    return pairs[0]


def _unique_similar(pairs: np.ndarray, signed: np.ndarray, least: float, chunk: int = 100_000) -> np.ndarray:
    pairs = np.unique(pairs, axis=0)
    similar = []
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        similar.append(part[(signed[part[:, 0]] == signed[part[:, 1]]).mean(axis=1) >= least])
    return np.concatenate(similar) if similar else pairs


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
