"""The leak search: exact against brute force, sure of synthetic copies, and not quadratic where words are common."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_judge.data.battles import battle_table
from sft_judge.data.preparing import similarity_join as set_join
from sft_judge.data.preparing.leaks import LeakSearch, triple_sets
from sft_judge.data.preparing.similarity_join import SetJoin
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings

pytestmark = pytest.mark.unit


def table(prompts: list[list[str]]) -> pa.Table:
    return battle_table(
        [
            {"id": f"b{row}", "prompt": turns, "response_a": ["x"], "response_b": ["y"], "verdict": None}
            for row, turns in enumerate(prompts)
        ]
    )


def search(prompts, sides, batch=7):
    found, battles = LeakSearch(), table(prompts)
    for start in range(0, len(prompts), batch):
        found.add(battles.slice(start, batch), np.array(sides[start : start + batch]))
    return found.find()


def jaccard(one: set, two: set) -> float:
    return len(one & two) / len(one | two)


@st.composite
def similar_sets(draw):
    """Sets that are a few elements away from one of three, with sides from -1 (none) to 3."""
    universe = draw(st.sampled_from((4, 12, 40)))
    element = st.integers(0, universe)
    bases = draw(st.lists(st.frozensets(element, min_size=1, max_size=25), min_size=3, max_size=3))
    change = st.tuples(st.sampled_from(bases), st.frozensets(element, max_size=3), st.integers(-1, 3))
    drawn = draw(st.lists(change, min_size=1, max_size=30))
    return [(sorted(base ^ changed) or [0], side) for base, changed, side in drawn]


@settings(max_examples=200, deadline=None)
@given(similar_sets(), st.sampled_from((2, 30, 10**6)), st.sampled_from((1, 5, 2**24)), st.booleans())
def test_the_join_finds_exactly_what_brute_force_finds(drawn, at_once, classes, shortcut):
    sets, sides = [set(elements) for elements, _ in drawn], np.array([side for _, side in drawn])
    flat = np.array([element for elements, _ in drawn for element in elements], dtype=np.uint64)
    before = set_join.MAX_ELEMENTS_IN_MEMORY, set_join.CLASSES
    set_join.MAX_ELEMENTS_IN_MEMORY, set_join.CLASSES = (
        at_once,
        classes,
    )  # any size of chunk and any order of elements will do
    try:
        join = SetJoin(flat, np.array([len(one) for one in sets]), sides)
        if not shortcut:  # which finds all there is in sets as few as these
            join._neighbours = lambda entries, step: np.zeros((0, 2), dtype=np.int64)
        found = join.find()
    finally:
        set_join.MAX_ELEMENTS_IN_MEMORY, set_join.CLASSES = before
    meet = {
        (i, j)
        for i in range(len(sets))
        for j in range(len(sets))
        if -1 < sides[i] != sides[j] > -1 and jaccard(sets[i], sets[j]) >= 0.8
    }
    assert set(np.flatnonzero(found)) == {i for i, _ in meet}
    assert {tuple(pair) for pair in join.witnesses} <= meet and bool(join.witnesses) == bool(meet)


def by_hand(text: str) -> set:
    words = re.findall(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W぀-ヿ㐀-鿿豈-﫿]+", text.casefold()) or [text.strip()]
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("aB \n.ß漢ひé_1", max_size=30), min_size=1, max_size=6))
def test_triples_are_those_of_a_plain_loop(texts):
    triples, sizes = triple_sets(texts)
    sets = [by_hand(text) for text in texts]
    assert sizes.tolist() == [len(one) for one in sets]
    parts = [set(part.tolist()) for part in np.split(triples, np.cumsum(sizes)[:-1])]
    for i, one in enumerate(sets):
        for j, two in enumerate(sets):
            assert len(parts[i] & parts[j]) == len(one & two)


def test_a_near_copy_across_folds_is_found_and_named_and_one_within_a_fold_is_not():
    words = [f"word{i}" for i in range(40)]
    prompt, near = " ".join(words), " ".join([*words[:-1], "changed"])
    far = " ".join(word if i % 5 else "changed" for i, word in enumerate(words))
    assert jaccard(by_hand(prompt), by_hand(near)) >= 0.8 > jaccard(by_hand(prompt), by_hand(far))
    leaks = search([[prompt], [near.upper()], [far], ["quite another thing"]], [0, 1, 2, 0])
    assert leaks.leaking.tolist() == [True, True, False, False] and leaks.pairs == [("b0", "b1")]
    assert leaks.first_turns == 0 and leaks.compared >= 1 and leaks.prompts == 4
    assert not search([[prompt], [near], [far]], [0, 0, 1]).leaking.any()
    assert not search([[prompt], [near]], [-1, 0]).leaking.any()


def test_equal_prompts_and_equal_first_turns_on_two_sides_are_leaks_of_their_own_kind():
    leaks = search([["Same  one", "more"], ["same one"], ["hello"], ["Hello "], ["?!"]], [0, 1, 0, 1, 0])
    assert leaks.first_turns == 2  # "same one" and "hello"
    assert leaks.leaking.tolist() == [False, False, True, True, False]


def test_test_rows_that_overlap_training_rows_are_counted():
    train, test = [["a b c d e f g h i j k l"], ["tell me a story"]], [["A b c d e f g h i j k l m"], ["new"], ["a b"]]
    leaks = search(train + test, [0, 0, 1, 1, 1])
    assert leaks.leaking[2:].tolist() == [True, False, False]


def test_folds_dealt_without_regard_to_prompts_leak_as_brute_force_says():
    knobs = preset_settings("easy", rows=400, test_rows=1, shifted_rows=1, near_duplicates=0.3)
    prompts = [row["prompt"] for row in generate_split(knobs, "train").rows]
    folds = np.arange(400) % 5
    sets = [by_hand("\n".join(turns)) for turns in prompts]
    expected = [any(folds[i] != folds[j] and jaccard(sets[i], sets[j]) >= 0.8 for j in range(400)) for i in range(400)]
    leaks = search(prompts, folds.tolist(), batch=150)
    assert leaks.leaking.tolist() == expected and 50 < sum(expected) < 400


def test_near_copies_of_one_template_are_not_compared_with_one_another():
    template = " ".join(f"w{i}" for i in range(60))
    prompts = [[f"{template} {number}"] for number in range(3000)]
    mixed = search(prompts, (np.arange(3000) % 5).tolist(), batch=1000)
    assert mixed.leaking.all() and mixed.compared < 10 * 3000  # of 3.6 million pairs
    assert search(prompts, [0] * 3000, batch=1000).compared == 0


def test_a_near_copy_of_a_prompt_that_stands_in_two_folds_leaks_whichever_of_them_it_is_in():
    prompt = " ".join(f"word{i}" for i in range(40))
    for fold in (0, 1, 2):
        assert search([[prompt], [prompt], [f"{prompt} more"]], [0, 1, fold]).leaking.all()
