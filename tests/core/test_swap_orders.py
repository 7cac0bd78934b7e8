"""Verdicts: exchanged, averaged over orders and widened in one place, the same for arrays and tensors."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sft_judge.core.swap_orders import ORDERS, average_over_orders, swap, unswap, widen

pytestmark = pytest.mark.unit
PACKAGE = Path(__file__).parents[2] / "sft_judge"


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1])


@pytest.mark.parametrize("num", [2, 3])
def test_two_exchanges_are_none_and_one_moves_a_and_b_alone(num):
    probs = drawn(7, 2, num)
    np.testing.assert_array_equal(swap(swap(probs)), probs)
    np.testing.assert_array_equal(swap(probs)[..., 2:], probs[..., 2:])
    np.testing.assert_array_equal(swap(probs)[..., 0], probs[..., 1])
    np.testing.assert_array_equal(swap(torch.tensor(probs)).numpy(), swap(probs))


@pytest.mark.parametrize("orders", [("ab",), ("ba",), ORDERS, ORDERS[::-1]])
def test_unswapped_verdicts_are_those_of_a_loop_over_orders(orders):
    shown = drawn(5 * len(orders), 3)
    expected = [
        [[row[1], row[0], row[2]] if order == "ba" else list(row) for order, row in zip(orders, rows, strict=True)]
        for rows in shown.reshape(5, len(orders), 3)
    ]
    np.testing.assert_array_equal(unswap(shown, orders), expected)


def test_the_average_of_orders_is_exchanged_to_the_bit_and_leaves_out_an_order_not_shown():
    probs, shown = drawn(50, 2, 3), np.ones((50, 2), dtype=bool)
    np.testing.assert_array_equal(average_over_orders(swap(probs[:, ::-1])), swap(average_over_orders(probs)))
    np.testing.assert_array_equal(average_over_orders(probs), probs.mean(axis=1))
    shown[3, 1] = False
    np.testing.assert_array_equal(average_over_orders(probs, shown)[3], probs[3, 0])


def test_a_judge_that_fails_in_one_order_gives_no_average():
    probs = drawn(5, 2, 3)
    probs[3, 1] = np.nan
    assert np.isnan(average_over_orders(probs)[3]).all() and not np.isnan(average_over_orders(probs)[:3]).any()


def test_a_widened_array_has_three_columns_and_one_of_three_is_as_it_was():
    assert widen(drawn(4, 2, 2), -np.inf)[..., 2].tolist() == [[-np.inf] * 2] * 4
    np.testing.assert_array_equal(widen(drawn(4, 3)), drawn(4, 3))


def test_no_other_module_writes_the_exchange_down():
    files = [file for file in PACKAGE.rglob("*.py") if re.search(r"\[1, 0(, 2)?\]", file.read_text(encoding="utf-8"))]
    assert [file.name for file in files] == ["swap_orders.py"]
