"""
How long a response is and how it looks, as counts: what may sway a judge, or people, beside what is said.

The kinds of markdown are those of Chatbot Arena's style control (LMSYS 2024, "Does style matter?"), and code blocks.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# RE2 patterns of what is counted
PATTERNS = {
    "lists": r"(?m)^\s*(?:[-*+]|\d+[.)])\s",
    "headers": r"(?m)^#{1,6}\s",
    "bold": r"\*\*[^*\n]+\*\*|__[^_\n]+__",
    "code blocks": r"(?m)^\s*```\w",
}
STYLES = ("length", *PATTERNS)


def text_lengths(battles: pa.Table, name: str) -> np.ndarray:
    """Characters [N] over all turns of one text field."""
    return _over_turns(battles[name], pc.utf8_length)


def style_counts(battles: pa.Table, name: str) -> dict[str, np.ndarray]:
    """`{style: [N]}` of one text field, in the order of STYLES: characters, and how often each kind of markdown."""
    found = {"length": text_lengths(battles, name)}
    for style, pattern in PATTERNS.items():
        found[style] = _over_turns(battles[name], lambda turns, of=pattern: pc.count_substring_regex(turns, of))
    return found


def style_differences(battles: pa.Table) -> dict[str, np.ndarray]:
    """
    `{style: [N]}`: (a - b) / (a + b) of the two responses' counts, from -1 to 1, zero where neither has any.

    So that exchanging the responses changes the sign, and twice as long is the same among short and long ones.
    """
    a, b = (style_counts(battles, name) for name in ("response_a", "response_b"))
    return {style: (a[style] - b[style]) / np.maximum(a[style] + b[style], 1) for style in STYLES}


def _over_turns(texts: pa.ChunkedArray, count) -> np.ndarray:
    """`count` of each turn, summed over the turns of each row: [N]."""
    texts = texts.combine_chunks()
    if len(texts) == 0:
        return np.zeros(0, dtype=int)
    counts = pc.fill_null(count(pc.list_flatten(texts)), 0).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(texts).to_numpy(zero_copy_only=False)
    return np.bincount(rows, counts, minlength=len(texts)).astype(int)
