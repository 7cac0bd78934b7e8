"""
Count the tokens of a battle's texts with the tokenizer that a rule of weights names.

A rule and its judges may move to other places. A tokenizer is therefore recognised by the tokens it gives for an
example text: the first judge's tokenizer, wherever it is now, is used if it is the one the rule was fitted with.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import name_of
from sft_judge.data.battles import FIELDS
from sft_judge.data.probs import Probs
from sft_judge.inference.calibrated import find_judge
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.identity import EXAMPLE_TEXT

ROWS_AT_ONCE = 2048


def token_lengths(battles: pa.Table, tokenizer) -> np.ndarray:
    """
    Count the tokens of the prompt and both responses, over all turns, before truncation and without the template.

    Args:
        battles: the battles.
        tokenizer: the tokenizer.

    Returns:
        Number of tokens of each battle [N].
    """
    lengths = np.zeros(len(battles), dtype=int)
    for name in FIELDS:
        for start in range(0, len(battles), ROWS_AT_ONCE):
            rows = battles[name].slice(start, ROWS_AT_ONCE).to_pylist()
            turns = [turn for row in rows for turn in row]
            ids = tokenizer(turns, add_special_tokens=False)["input_ids"] if turns else []
            place = np.repeat(np.arange(start, start + len(rows)), [len(row) for row in rows])
            np.add.at(lengths, place, [len(each) for each in ids])
    return lengths


def tokenizer_hash(tokenizer) -> str:
    """Compute the SHA-256 of the tokens of a text in many scripts; equal for tokenizers that give the same tokens."""
    return hashlib.sha256(json.dumps(tokenizer(EXAMPLE_TEXT)["input_ids"]).encode()).hexdigest()


def tokenizer_of_judge(probs: Probs):
    """
    Load the tokenizer of the judge that made a probs file.

    Returns:
        The tokenizer, and the judge's name.

    Raises:
        InputError: the judge is not found.
    """
    folder = find_judge(probs.metadata, probs.path)
    if folder is None:
        raise InputError(
            f"{probs.path}: weights by tokens need the tokenizer of its judge, "
            f"{probs.metadata.get('model') or 'which is unknown'}, but this judge was not found. Name a folder or a "
            'Hub id as "tokenizer" in a rule (--weights RULE.json), or use weights by language.'
        )
    return load_tokenizer(str(folder)), name_of(folder)


def tokenizer_of_rule(rule, probs: Probs):
    """
    Load the tokenizer of a rule by tokens: the one it names, or by default that of the first judge.

    Args:
        rule: an `ensemble.Rule`.
        probs: contents of the first judge's probs file.

    Raises:
        InputError: the tokenizer is not found, or is not the one that the rule was fitted with.
    """
    if rule.tokenizer is None:
        return tokenizer_of_judge(probs)[0]
    folder = find_judge(probs.metadata, probs.path)
    if rule.tokenizer_sha256 and folder is not None:
        tokenizer = load_tokenizer(str(folder))
        if tokenizer_hash(tokenizer) == rule.tokenizer_sha256:
            return tokenizer
    tokenizer = _load_named(rule.tokenizer)
    if rule.tokenizer_sha256 not in (None, tokenizer_hash(tokenizer)):
        raise InputError(
            f"{rule.tokenizer}: gives other tokens than the tokenizer with which the rule's weights by tokens were "
            'fitted. Fit them again (--fit), or name the right one as "tokenizer" in the rule.'
        )
    return tokenizer


def _load_named(name: str):
    """Load the tokenizer in a folder or of a Hub id; the id may be `ID@COMMIT`."""
    model, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    return load_tokenizer(model, revision or None)
