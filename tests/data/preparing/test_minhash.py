"""Near-equal texts, and training order: both held against computations that look at every pair and every prefix."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_judge.data.ordering import balanced_order, fair_schedule
from sft_judge.data.preparing.minhash import NEAR, connect, near_pairs, signatures, word_triples

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
    error = 4 * np.sqrt(NEAR * (1 - NEAR) / signed.shape[1])
    for i, j in itertools.combinations(range(len(texts)), 2):
        if (similarity := jaccard(texts[i], texts[j])) > NEAR + error:
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


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum))
def test_every_prefix_of_a_fair_schedule_is_less_than_one_from_its_share(counts):
    schedule = fair_schedule(counts)
    assert np.bincount(schedule, minlength=len(counts)).tolist() == counts
    lengths = np.arange(1, len(schedule) + 1)
    for place, count in enumerate(counts):
        drift = np.cumsum(schedule == place) - lengths * count / len(schedule)
        assert np.abs(drift).max() < 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=200), st.integers(0, 9))
def test_a_balanced_order_holds_verdicts_and_sources_in_every_prefix(rows, seed):
    verdicts, sources = np.array(rows).T
    order = balanced_order(verdicts, sources, seed)
    assert sorted(order) == list(range(len(rows)))
    shown, lengths = verdicts[order], np.arange(1, len(rows) + 1)
    for verdict in set(verdicts):
        of_verdict = np.cumsum(shown == verdict)
        assert np.abs(of_verdict - lengths * (verdicts == verdict).mean()).max() < 1
        for source in set(sources):
            share = (sources[verdicts == verdict] == source).mean()
            both = np.cumsum((shown == verdict) & (sources[order] == source))
            assert np.abs(both - of_verdict * share).max() < 1


def test_the_seed_decides_the_order():
    verdicts, sources = np.arange(300) % 3, np.arange(300) % 2
    assert (balanced_order(verdicts, sources, 0) == balanced_order(verdicts, sources, 0)).all()
    assert (balanced_order(verdicts, sources, 0) != balanced_order(verdicts, sources, 1)).any()
