"""Length and markdown of responses: counted in prose, and exchanged with the responses."""

import numpy as np
import pytest

from sft_judge.data.battles import battle_table
from sft_judge.data.style import standardise, style_counts, style_differences

pytestmark = pytest.mark.unit


def test_marks_are_counted_in_prose_and_code_blocks_apart():
    text = "# One\n\n- a\n- b\n1. c\n\n**bold** and __bold__ but 2 * 3 * 4\n```\n# no header\n- no list\n```\nend"
    rows = [{"id": "x", "prompt": ["p"], "response_a": [text, "## Two"], "response_b": ["", "plain"], "verdict": "a"}]
    table = battle_table(rows)
    names = ["length", "headers", "lists", "bold", "code blocks"]
    a = style_counts(table["response_a"], names)
    assert a.tolist() == [[len(text) + 1 + len("## Two"), 2, 3, 2, 1]]
    b = style_counts(table["response_b"], names)
    assert b.tolist() == [[6, 0, 0, 0, 0]]
    assert style_differences(a, b)[0, 1:].tolist() == [1, 1, 1, 1]
    assert (style_differences(b, b)[0] == 0).all()


def test_differences_are_brought_to_one_scale_and_exchanged_responses_change_no_more_than_the_sign():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, [0.1, 2, 0], size=(50, 3))
    differences[:, 2] = 0
    found, signs = standardise(differences), np.where(rng.random((50, 1)) < 0.5, -1, 1)
    assert (found**2).mean(axis=0) == pytest.approx([1, 1, 0])
    np.testing.assert_allclose(standardise(signs * differences), signs * found)


# ---------------------------------------------------------------------------------------------------------------------
# the command
