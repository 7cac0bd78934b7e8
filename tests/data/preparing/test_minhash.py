"""Near-equal texts: held against computations that look at every pair."""

import itertools

import numpy as np
import pytest

from sft_judge.data.preparing.minhash import NEAR_SIMILARITY, connect, near_pairs, signatures, word_triples

pytestmark = pytest.mark.unit


def jaccard(one: str, two: str) -> float:
    one, two = set(word_triples(one)), set(word_triples(two))
    return len(one & two) / len(one | two)


def edited_texts(seed: int, num: int, num_words: int = 60) -> list[str]:
    """Texts of random words, each followed by copies with ever more words changed."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(num):
        words = [f"w{word}" for word in draw.integers(0, 5000, num_words)]
        for changes in (0, 1, 2, 4, 8):
            places = draw.choice(num_words, changes, replace=False)
            texts.append(" ".join("new" if place in places else word for place, word in enumerate(words)))
    return texts


def test_pairs_are_those_of_exact_similarity_but_for_the_estimate_s_error():
    texts = edited_texts(0, 40)
    signed = signatures(texts)
    linked = connect(len(texts), near_pairs(signed, np.arange(len(texts))))
    error = 4 * np.sqrt(NEAR_SIMILARITY * (1 - NEAR_SIMILARITY) / signed.shape[1])
    for i, j in itertools.combinations(range(len(texts)), 2):
        if (similarity := jaccard(texts[i], texts[j])) > NEAR_SIMILARITY + error:
            assert linked[i] == linked[j], similarity
        elif i // 5 != j // 5:
            assert linked[i] != linked[j], similarity


def test_signatures_estimate_the_similarity():
    texts = edited_texts(1, 30)
    signed = signatures(texts)
    pairs = list(itertools.combinations(range(len(texts)), 2))
    estimates = np.array([(signed[i] == signed[j]).mean() for i, j in pairs])
    exact = np.array([jaccard(texts[i], texts[j]) for i, j in pairs])
    assert np.abs(estimates - exact).max() < 5 * 0.5 / np.sqrt(signed.shape[1])
    assert abs((estimates - exact).mean()) < 0.01


def test_a_band_that_very_many_texts_share_is_still_one_cluster():
    texts = [f"please write a poem about the sea and the wind and the rain at night number {i}" for i in range(300)]
    linked = connect(len(texts), near_pairs(signatures(texts), np.arange(len(texts))))
    assert len(set(linked)) == 1


def test_clusters_do_not_depend_on_the_order_of_texts():
    texts = edited_texts(2, 30)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    rank = np.argsort(np.argsort(texts))  # the same for a text wherever it stands
    signed = signatures(texts)
    one = connect(len(texts), near_pairs(signed, rank))
    two = connect(len(texts), near_pairs(signed[shuffled], rank[shuffled]))
    assert {frozenset(np.flatnonzero(one == c)) for c in set(one)} == {
        frozenset(shuffled[np.flatnonzero(two == c)]) for c in set(two)
    }


@pytest.mark.parametrize(
    "text, triples", [("One, two", ["one two"]), ("", [""]), ("?!", ["?!"]), ("你好吗", ["你 好 吗"])]
)
def test_short_texts_are_one_gram_and_cjk_characters_are_words(text, triples):
    assert word_triples(text) == triples
