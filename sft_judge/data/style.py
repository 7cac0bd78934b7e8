"""
Style of responses: length and markdown, which may influence people and judges.

The differences follow LMSYS' style control (Li et al. 2024, "Does style matter?",
https://lmsys.org/blog/2024-08-28-style-control): (a - b) / (a + b) of each count, zero if both counts are zero, scaled
to a common scale over the battles.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FENCE = "(?s)```.*?```"  # headers and lists are not counted inside code blocks
MARKS = {
    "headers": r"(?m)^ {0,3}#{1,6}\s",
    "lists": r"(?m)^\s*(?:[-*+]|\d+[.)])\s",
    "bold": r"\*\*[^*\n]+\*\*|__[^_\n]+__",
}
CONTROLS = {"length": ("length",), "style": (*MARKS, "code blocks")}  # features that `rank --control` controls for
FEWEST_SHOWING = 20  # prompts that must show a style for its effect to be estimated: scripts/rank_coverage.py
STYLES = tuple(name for names in CONTROLS.values() for name in names)


def text_lengths(battles: pa.Table, name: str) -> np.ndarray:
    """
    Return the number of characters over all turns of one text field `[N]`.

    Args:
        battles: the battles.
        name: one of FIELDS.
    """
    texts = battles[name].combine_chunks()
    counts = pc.fill_null(pc.utf8_length(texts.flatten()), 0).to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(texts).to_numpy(zero_copy_only=False)
    return np.bincount(rows, counts, minlength=len(texts)).astype(int)


def style_counts(response: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """
    Count style features of responses.

    Args:
        response: responses as lists of turns `[N]`.
        names: features to count; `length` counts characters, all others count occurrences.

    Returns:
        Counts `[N, F]`.
    """
    text = pc.binary_join(response.combine_chunks(), "\n")
    prose = text if names == ["length"] else pc.replace_substring_regex(text, _FENCE, "")
    counts = {
        "length": lambda: pc.utf8_length(text),
        "code blocks": lambda: pc.count_substring_regex(text, _FENCE),
        **{name: lambda mark=mark: pc.count_substring_regex(prose, mark) for name, mark in MARKS.items()},
    }
    return np.stack([counts[name]().to_numpy(zero_copy_only=False) for name in names], axis=1).astype(float)


def style_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    Compute (a - b) / (a + b) of counts `[N, F]`, 0 if both are zero.

    Args:
        a: counts of response a `[N, F]`.
        b: counts of response b `[N, F]`.
    """
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)


def standardise(differences: np.ndarray) -> np.ndarray:
    """
    Scale differences `[N, F]` to a mean square of 1; a column of zeros stays zero.

    The mean is not subtracted, so that swapping the responses a and b only changes the sign.
    """
    scale = np.sqrt((differences**2).mean(axis=0))
    return differences / np.where(scale > 0, scale, 1)
