"""
How long texts are, and how two responses differ in length and in markdown: what may sway people and judges.

As LMSYS' style control has it (Li et al. 2024, "Does style matter?", https://lmsys.org/blog/2024-08-28-style-control):
(a - b) / (a + b) of each count, brought to one scale over the battles. Zero where neither has any.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FENCE = "(?s)```.*?```"  # what stands in a block of code is no header or list
MARKS = {
    "headers": r"(?m)^ {0,3}#{1,6}\s",
    "lists": r"(?m)^\s*(?:[-*+]|\d+[.)])\s",
    "bold": r"\*\*[^*\n]+\*\*|__[^_\n]+__",
}
CONTROLS = {"length": ("length",), "style": (*MARKS, "code blocks")}  # what `rank --control` holds equal
FEWEST_SHOWING = 20  # prompts that must show a style for an effect of it to be known: scripts/rank_coverage.py
STYLES = tuple(name for names in CONTROLS.values() for name in names)


def text_lengths(battles: pa.Table, name: str) -> np.ndarray:
    """Characters [N] over all turns of one text field."""
    texts = battles[name].combine_chunks()
    counts = pc.fill_null(pc.utf8_length(texts.flatten()), 0).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(texts).to_numpy(zero_copy_only=False)
    return np.bincount(rows, counts, minlength=len(texts)).astype(int)


def style_counts(response: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """[N, F] of responses, lists of turns: characters for `length`, how often each mark stands for the others."""
    text = pc.binary_join(response.combine_chunks(), "\n")
    prose = text if names == ["length"] else pc.replace_substring_regex(text, _FENCE, "")
    counts = {
        "length": lambda: pc.utf8_length(text),
        "code blocks": lambda: pc.count_substring_regex(text, _FENCE),
        **{name: lambda mark=mark: pc.count_substring_regex(prose, mark) for name, mark in MARKS.items()},
    }
    return np.stack([counts[name]().to_numpy(zero_copy_only=False) for name in names], axis=1).astype(float)


def style_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(a - b) / (a + b) of counts [N, F]; 0 of two zeros."""
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)


def standardise(differences: np.ndarray) -> np.ndarray:
    """
    [N, F] with a mean square of 1; a column of zeros stays one.

    The mean is not taken out: which response is a and which b then makes no difference but the sign.
    """
    scale = np.sqrt((differences**2).mean(axis=0))
    return differences / np.where(scale > 0, scale, 1)
