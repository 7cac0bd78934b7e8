"""The budget: long fields are cut fairly, in the middle, alike in both orders, and every cut is counted."""

import copy
import math

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.prompt_cases import NARROW, PAIR, ROW, TURN, WORDS, battles, swapped
from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import Budget
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.truncation import cut_middle, share_turns, water_fill

pytestmark = pytest.mark.unit


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=6), st.integers(0, 2000))
def test_water_fill_shares_fairly(lengths, total):
    shares = water_fill(lengths, total)
    assert sum(shares) <= max(total, 0) and all(share <= length for share, length in zip(shares, lengths, strict=True))
    assert shares == lengths if sum(lengths) <= total else sum(shares) > total - len(lengths)
    level = max(shares)
    assert all(share == min(length, level) for share, length in zip(shares, lengths, strict=True))
    assert all(more >= less for more, less in zip(water_fill(lengths, total + 1), shares, strict=True))
    assert water_fill(lengths[::-1], total) == shares[::-1]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=6), st.integers(0, 2000))
def test_a_turn_has_half_of_what_the_later_ones_left_and_all_that_earlier_ones_do_not_need(lengths, allowance):
    shares = share_turns(lengths, allowance)
    assert sum(shares) == min(sum(lengths), allowance)
    for place, (share, length) in enumerate(zip(shares, lengths, strict=True)):
        left = allowance - sum(shares[place + 1 :])
        may_have = max(math.ceil(left / 2), left - sum(lengths[:place]))
        assert share == min(length, may_have)


def test_the_last_turn_keeps_more_than_the_first(tokenizer):
    row = {"prompt": ["p"] * 3, "response_a": ["long text " * 200] * 3, "response_b": ["b"] * 3}
    sizes = list(map(len, JudgePrompt(tokenizer, PAIR, WORDS, Budget(100, 64, 1000)).fit([row])[0].response_a))
    assert sizes == sorted(sizes) and sizes[-1] == 32 and sizes[-2] == 16 and sizes[0] == 16


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles(), budget=st.builds(Budget, st.integers(1, 80), st.integers(1, 80), st.integers(150, 500)))
def test_no_sequence_is_longer_than_the_budget(row, budget, wide):
    prompt = copy.copy(wide)
    prompt.budget = budget
    try:
        fields = prompt.fit([row])[0]
    except InputError:
        assume(False)
    for order in ("ab", "ba"):
        assert len(prompt.ids(fields, order)) + 1 <= budget.total
    assert sum(map(len, fields.prompt)) <= budget.prompt
    assert max(sum(map(len, fields.response_a)), sum(map(len, fields.response_b))) <= budget.response


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles(turns=TURN))
def test_what_fits_is_not_cut_and_what_is_cut_is_counted(row, narrow, wide):
    whole, cut = wide.fit([row])[0], narrow.fit([row])[0]
    assert not any(whole.cut.values())
    for name in ("prompt", "response_a", "response_b"):
        size = sum(map(len, getattr(whole, name)))
        assert cut.cut[name] == size - sum(map(len, getattr(cut, name)))
        if not cut.cut[name]:
            assert getattr(cut, name) == getattr(whole, name)
    if (
        len(wide.ids(whole)) < NARROW.total
        and all(sum(map(len, getattr(whole, name))) <= 60 for name in ("prompt", "response_a", "response_b"))
        and len(wide.ids(whole, "ba")) < NARROW.total
    ):
        assert cut.cut == dict.fromkeys(cut.cut, 0)


@pytest.mark.parametrize("text", ["漢字かな交じり文です", "👩‍👩‍👧‍👦🏳️‍🌈", "नमस्ते दुनिया", "aé漢👍b", "𝕳𝖊𝖑"])
@pytest.mark.parametrize("room", range(1, 48, 3))
def test_a_cut_never_falls_inside_a_character(text, room, wide, tokenizer):
    text, prompt = text * 20, copy.copy(wide)
    prompt.budget = Budget(room, room, 600)
    fields = prompt.fit([{"prompt": [text], "response_a": [text], "response_b": ["short"], "language": None}])[0]
    seen = tokenizer.decode(fields.response_a[0])
    assert "\ufffd" not in seen and len(fields.response_a[0]) <= room
    head, _, tail = seen.partition(" [...] ")
    assert (
        text.startswith(head)
        and text.endswith(tail)
        or any(text.startswith(seen[:place]) and text.endswith(seen[place:]) for place in range(len(seen) + 1))
    )


@pytest.mark.parametrize("place", ["response_a", "response_b"])
def test_swap_exchanges_cuts_where_a_template_has_more_frame_for_one_response(place, tokenizer):
    wordy = PAIR.replace(f"in {place} %}}", f"in {place} %}}\nThis is a turn of one response:", 1)
    prompt = JudgePrompt(tokenizer, wordy, WORDS, Budget(100, 100, 330))
    row = {"prompt": ["p " * 90], "response_a": ["a " * 90] * 3, "response_b": ["b " * 90], "language": None}
    assert prompt.encode([row], ("ab", "ba"))[0] == prompt.encode([swapped(row)], ("ba", "ab"))[0]
    assert prompt.frame(1, 3, 1, False).length != prompt.frame(1, 1, 3, False).length
    assert max(map(len, prompt.encode([row], ("ab", "ba"))[0])) < 330


def test_the_middle_is_cut_and_marked_head_and_tail_stay(tokenizer):
    text = "begin " + "middle " * 300 + " finish"
    prompt = JudgePrompt(tokenizer, PAIR, WORDS, Budget(60, 60, 500))
    seen = tokenizer.decode(
        prompt.fit([{"prompt": ["p"], "response_a": [text], "response_b": ["b"]}])[0].response_a[0]
    )
    assert seen.startswith("begin") and seen.endswith("finish") and " [...] " in seen


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 8))
def test_head_and_tail_of_a_cut_never_meet_without_the_marker(size, room, marker):
    """Together they could spell a tag that neither holds."""
    ids, marks = list(range(size)), [-1] * marker
    cut = cut_middle(ids, room, marks, frozenset())
    assert len(cut) <= max(room, 0) and (cut == ids) == (size <= room)
    kept = [token for token in cut if token >= 0]
    assert kept == sorted(set(kept)) and (cut == kept or not marker or len(cut) == len(kept) + marker)
    if size > room and cut == kept and marker:
        assert kept == ids[:room]


@pytest.mark.parametrize("total", [1, 10, 60])
def test_a_budget_smaller_than_the_frame_is_an_error_with_advice(total, tokenizer):
    prompt = JudgePrompt(tokenizer, PAIR, WORDS, Budget(50, 50, total))
    with pytest.raises(InputError, match="Raise total_budget to at least") as error:
        prompt.fit([ROW])
    wanted = int(str(error.value).rstrip(".").split()[-1])
    JudgePrompt(tokenizer, PAIR, WORDS, Budget(50, 50, wanted)).fit([ROW])
