"""A second computation of near-duplicates: sets of word pairs by a plain loop, compared whole."""

import re

from sft_judge.data.preparing.minhash import NEAR_SIMILARITY

ESTIMATE_ERROR = 0.18  # more than four standard errors of a similarity that 128 hashes estimate


def pairs_by_hand(text: str) -> set:
    """Pairs of neighbouring words, a Chinese or Japanese character being a word."""
    words = re.findall(r"[぀-ヿ㐀-鿿]|[^\W぀-ヿ㐀-鿿]+", text.casefold())
    return {tuple(([None, *words, None])[place : place + 2]) for place in range(len(words) + 1)} if words else {text}


def jaccard(one: str, two: str) -> float:
    """Of two texts' word pairs."""
    one, two = pairs_by_hand(one), pairs_by_hand(two)
    return len(one & two) / len(one | two)


def duplicate_similarity(one: dict, two: dict) -> float:
    """The least similarity of a battle's prompt and responses with those of another, exchanged if that is more."""
    texts = [["\n".join(row[name]) for name in ("prompt", "response_a", "response_b")] for row in (one, two)]
    (prompt, a, b), (other, x, y) = texts
    return min(jaccard(prompt, other), max(min(jaccard(a, x), jaccard(b, y)), min(jaccard(a, y), jaccard(b, x))))


def is_surely_near(similarity: float) -> bool | None:
    """If texts of this similarity must count as nearly the same, or must not; None if the estimate may err."""
    return None if abs(similarity - NEAR_SIMILARITY) < ESTIMATE_ERROR else similarity > NEAR_SIMILARITY
