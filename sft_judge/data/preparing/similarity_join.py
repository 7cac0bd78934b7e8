"""
Which of a million sets have a similar one on another side: an exact join by prefix filtering.

Two sets of Jaccard similarity 0.8 or more share one of the few rarest elements of each (Chaudhuri, Ganti and Kaushik
2006, "A primitive operator for similarity joins in data cleaning"), so only sets that meet there are candidates; how
many elements can follow the first shared one cuts them down (PPJoin: Xiao et al. 2008, "Efficient similarity joins
for near duplicate detection"). What is left is compared whole: nothing is estimated. Everything is sorted arrays.
"""

import numpy as np

ABOVE, BELOW = 4, 5  # Jaccard similarity from ABOVE / BELOW on counts as nearly equal
CLASSES = 2**24  # elements are counted in so many classes, by hash, to find the rare ones
MAX_ELEMENTS_IN_MEMORY = 2_000_000  # elements or pairs in memory
SLICES = 16  # of the elements, to be sorted one at a time
MIXER = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's
ENTRY = np.dtype([("element", np.uint64), ("node", np.int32), ("place", np.int32)])


class SetJoin:
    """
    Sets as `elements` (64-bit hashes, each set sorted, one after the other), their `sizes` [N] of at least 1 and
    `sides` [N]; a set whose side is below 0 takes no part.

    Equal sets are one node. A node leaks if it, or one similar to it, stands on two sides. After `find`, `compared`
    is how many pairs of nodes were compared whole, and `witnesses` holds pairs of rows.
    """

    def __init__(self, elements: np.ndarray, sizes: np.ndarray, sides: np.ndarray):
        starts = np.cumsum(sizes) - sizes
        rows = np.flatnonzero(sides >= 0)
        keys = _set_hashes(elements, starts, sizes)[rows]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        self.elements, self.first_row = elements, rows[first]
        self.node_of = np.full(len(sizes), -1)
        self.node_of[rows] = inverse
        self.size, self.start = sizes[self.first_row], starts[self.first_row]
        self.leaking = np.zeros(len(self.first_row) + 1, dtype=bool)  # the last: rows that take no part
        self.compared, self.num_sets = 0, len(self.first_row)
        self.side = sides[self.first_row]
        self._first_side = self.side.copy()
        others = rows[sides[rows] != self.side[inverse]]
        nodes = self.node_of[others]
        self.leaking[nodes] = True
        self.witnesses = np.stack([self.first_row[nodes], others], axis=1)[:10].tolist()
        self.side[nodes] = sides.max(initial=0) + 1  # on two sides already: the same as another such, not as the rest

    def find(self) -> np.ndarray:
        """Whether each row [N] has an equal or a similar set on another side."""
        entries = self._prefixes()
        for step in (1, 2, 4, 8):  # of a cluster this finds nearly all, and keeps the rest linear
            self._compare(self._neighbours(entries, step))
        open_ = ~self.leaking[entries["node"]]
        for smaller, larger in ((entries[open_], entries), (entries[~open_], entries[open_])):
            for pairs in self._candidates(smaller, larger):
                self._compare(pairs)
        return self.leaking[self.node_of]

    def _compare(self, pairs: np.ndarray) -> None:
        """Compare pairs of nodes [M, 2], but for those that both leak by now."""
        pairs = pairs[~self.leaking[pairs].all(axis=1)]
        similar = pairs[self._similar(pairs)]
        self.compared += len(pairs)
        self.leaking[similar] = True
        named = similar[self._first_side[similar[:, 0]] != self._first_side[similar[:, 1]]]
        self.witnesses += self.first_row[named[:10]].tolist()

    def _sets(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The elements of the sets of `nodes`, for each its set's place in `nodes`, and its own place in the set."""
        sizes = self.size[nodes]
        owner = np.repeat(np.arange(len(nodes)), sizes)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.elements[self.start[nodes][owner] + place], owner, place

    def _prefixes(self) -> np.ndarray:
        """
        Entries of the rarest elements of each set, as many as it must share one of with any similar set.

        An entry's `place` counts from 0 in the order of rarity, which is the same in all sets.
        """
        everything = np.arange(len(self.size))
        counts = np.zeros(CLASSES, dtype=np.uint32)
        for nodes in _parts(everything, self.size):
            classes, times = np.unique(_classes(self._sets(nodes)[0]), return_counts=True)
            counts[classes] += times.astype(np.uint32)
        prefixes = []
        for nodes in _parts(everything, self.size):
            elements, owner, place = self._sets(nodes)
            often = counts[_classes(elements)]
            order = np.lexsort((often, owner))  # equally rare ones stay sorted by themselves
            size = self.size[nodes][owner]
            wanted = (place <= size - _share(size, ABOVE, BELOW)) & (often[order] > 1)
            entries = np.empty(int(wanted.sum()), ENTRY)
            for name, values in (("element", elements[order]), ("node", nodes[owner]), ("place", place)):
                entries[name] = values[wanted]
            prefixes.append(entries)
        return _find_shared(prefixes)

    def _neighbours(self, entries: np.ndarray, step: int) -> np.ndarray:
        """Pairs of nodes that stand `step` places apart among those with a common element, sorted by size."""
        entries = entries[np.lexsort((self.size[entries["node"]], entries["element"]))]
        meet = np.flatnonzero(entries["element"][step:] == entries["element"][:-step])
        return self._likely(entries[meet], entries[meet + step])

    def _candidates(self, smaller: np.ndarray, larger: np.ndarray):
        """
        All pairs of nodes that may be similar, in chunks, the one from `smaller` not being the larger set.

        The prefix that the smaller set needs is shorter than the other's (PPJoin's indexing prefix).
        """
        size = self.size[smaller["node"]]
        smaller = smaller[smaller["place"] <= size - _share(size, 2 * ABOVE, ABOVE + BELOW)]
        smaller = smaller[np.argsort(smaller["node"], kind="stable")]
        size, side = self.size[smaller["node"]], self.side[smaller["node"]]
        ranks, num_sides, most = (
            np.unique(larger["element"]),
            int(self.side.max(initial=0)) + 1,
            int(self.size.max(initial=0)) + 1,
        )
        group = np.searchsorted(ranks, larger["element"])
        keys = (group * num_sides + self.side[larger["node"]]) * most + self.size[larger["node"]]
        order = np.argsort(keys)
        keys, larger = keys[order], larger[order]
        group = np.searchsorted(ranks, smaller["element"])
        is_ranked = np.append(ranks, 0)[group] == smaller["element"]
        ranges = np.zeros((2, len(smaller), num_sides), dtype=np.int64)
        for other in range(num_sides):
            block = (group * num_sides + other) * most
            ranges[0, :, other] = np.searchsorted(keys, block + size + (other < side))  # equal sizes: one way only
            ranges[1, :, other] = np.searchsorted(keys, block + np.minimum(size * BELOW // ABOVE + 1, most))
            ranges[1, ~is_ranked | (side == other), other] = 0
        lows, highs = ranges[0], np.maximum(ranges[0], ranges[1])
        for part in _parts(np.arange(len(smaller)), (highs - lows).sum(axis=1), smaller["node"]):
            left, right = _expand(lows[part], highs[part])
            yield self._likely(smaller[part[left]], larger[right])

    def _likely(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Pairs of nodes [M, 2], once each, of entries with a common element after which enough others can follow."""
        sizes = self.size[left["node"]], self.size[right["node"]]
        rest = np.minimum(sizes[0] - left["place"], sizes[1] - right["place"])
        apart = self.side[left["node"]] != self.side[right["node"]]
        is_likely = apart & (rest >= _share(sizes[0] + sizes[1], ABOVE, ABOVE + BELOW))
        pairs = np.sort(np.stack([left["node"][is_likely], right["node"][is_likely]], axis=1).astype(np.int64), axis=1)
        keys = np.unique(pairs[:, 0] * self.num_sets + pairs[:, 1])
        return np.stack([keys // self.num_sets, keys % self.num_sets], axis=1)

    def _similar(self, pairs: np.ndarray) -> np.ndarray:
        """Whether the two sets of each pair [M, 2] have the Jaccard similarity, by their elements."""
        result = np.zeros(len(pairs), dtype=bool)
        sizes = self.size[pairs].sum(axis=1)
        for part in _parts(np.arange(len(pairs)), sizes):
            sets = [self._sets(pairs[part, column]) for column in (0, 1)]
            elements, owner = (np.concatenate([one[field] for one in sets]) for field in (0, 1))
            order = np.lexsort((elements, owner))
            elements, owner = elements[order], owner[order]
            twice = (elements[1:] == elements[:-1]) & (owner[1:] == owner[:-1])
            common = np.bincount(owner[1:][twice], minlength=len(part))
            result[part] = common >= _share(sizes[part], ABOVE, ABOVE + BELOW)
        return result


def _share(values: np.ndarray, above: int, below: int) -> np.ndarray:
    """values * above / below, rounded up."""
    return -(-values * above // below)


def _classes(elements: np.ndarray) -> np.ndarray:
    return (elements % np.uint64(CLASSES)).astype(np.int64)


def _set_hashes(elements: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """64 bits [N] of each set."""
    hashes = np.zeros(len(sizes), dtype=np.uint64)
    for rows in _parts(np.arange(len(sizes)), sizes):
        first, last = rows[0], rows[-1]
        mixed = elements[starts[first] : starts[last] + sizes[last]] + MIXER
        for shift in (29, 32):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * MIXER
        hashes[rows] = np.add.reduceat(mixed ^ (mixed >> np.uint64(31)), starts[rows] - starts[first])
    return hashes


def _find_shared(parts: list[np.ndarray]) -> np.ndarray:
    """The entries of all parts, but for elements that stand in one alone."""
    shared = [np.zeros(0, ENTRY)]
    for bits in range(SLICES):  # one after the other, as few elements are shared
        entries = np.concatenate([shared[0], *(part[part["element"] % np.uint64(SLICES) == bits] for part in parts)])
        order = np.argsort(entries["element"])
        elements = entries["element"][order]
        same = elements[1:] == elements[:-1]
        shared.append(entries[order[(np.r_[False, same] | np.r_[same, False])[: len(order)]]])
    return np.concatenate(shared)


def _parts(items: np.ndarray, weights: np.ndarray, together: np.ndarray | None = None):
    """`items` [N] cut into parts of about MAX_ELEMENTS_IN_MEMORY, a run of equal values of `together` never cut."""
    part = (np.cumsum(weights) - weights) // MAX_ELEMENTS_IN_MEMORY
    if together is not None:
        part = part[np.searchsorted(together, together)]
    cuts = np.flatnonzero(np.diff(part)) + 1
    return [some for some in np.split(items, cuts) if len(some)]


def _expand(lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (row, number) with lows[row, j] <= number < highs[row, j] for some column j."""
    counts = (highs - lows).ravel()
    owner = np.repeat(np.arange(len(counts)), counts)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner // lows.shape[1], lows.ravel()[owner] + inside
