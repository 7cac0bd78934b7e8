"""Near-equal texts: held against computations that look at every pair."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.near_texts import is_surely_near, jaccard, pairs_by_hand
from sft_judge.data.preparing.minhash import connect, near_texts, signatures, word_pairs

pytestmark = pytest.mark.unit


def edited_texts(seed: int, num: int, num_words: int = 60) -> list[str]:
    """Texts of random words, each followed by copies with ever more words changed."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(num):
        words = [f"w{word}" for word in draw.integers(0, 5000, num_words)]
        for changes in (0, 1, 2, 4, 12):
            places = draw.choice(num_words, changes, replace=False)
            texts.append(" ".join("new" if place in places else word for place, word in enumerate(words)))
    return texts


def test_pairs_are_those_of_exact_similarity_but_for_the_estimate_s_error():
    texts = edited_texts(0, 40)
    signed = signatures(texts)
    linked = connect(len(texts), near_texts(signed, np.arange(len(texts))))
    pairs = itertools.combinations(range(len(texts)), 2)
    surely = {(i, j): is_surely_near(jaccard(texts[i], texts[j])) for i, j in pairs}
    assert sum(near is True for near in surely.values()) > 80
    assert all(linked[i] == linked[j] for (i, j), near in surely.items() if near)
    assert not any(linked[i] == linked[j] for i, j in surely if i // 5 != j // 5)


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
    linked = connect(len(texts), near_texts(signatures(texts), np.arange(len(texts))))
    assert len(set(linked)) == 1


def test_clusters_do_not_depend_on_the_order_of_texts():
    texts = edited_texts(2, 30)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    rank = np.argsort(np.argsort(texts))  # the same for a text wherever it stands
    signed = signatures(texts)
    one = connect(len(texts), near_texts(signed, rank))
    two = connect(len(texts), near_texts(signed[shuffled], rank[shuffled]))
    assert {frozenset(np.flatnonzero(one == c)) for c in set(one)} == {
        frozenset(shuffled[np.flatnonzero(two == c)]) for c in set(two)
    }


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("One, two", [" one", "one two", "two "]),
        ("", [""]),
        ("?!", ["?!"]),
        ("用AI你", [" 用", "用 ai", "ai 你", "你 "]),
    ],
)
def test_the_ends_of_a_text_and_cjk_characters_are_words(text, pairs):
    assert word_pairs(text) == pairs


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("aB \n.ß漢ひé_1", max_size=30), min_size=2, max_size=2))
def test_pairs_are_those_of_a_plain_loop(texts):
    one, two = (set(word_pairs(text)) for text in texts)
    assert len(one & two) / len(one | two) == jaccard(*texts) and len(one) == len(pairs_by_hand(texts[0]))


@pytest.mark.parametrize("place", range(12))
def test_one_changed_word_in_twelve_is_seen_wherever_it_is(place):
    draw, seen = np.random.default_rng(place), 0
    for _ in range(50):
        words = [f"w{word}" for word in draw.integers(0, 5000, 12)]
        changed = [*words[:place], "other", *words[place + 1 :]]
        seen += len(near_texts(signatures([" ".join(words), " ".join(changed)]), np.arange(2)))
    assert seen >= 45
