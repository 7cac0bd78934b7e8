"""
How many tokens a battle's texts have, by the tokenizer that a rule of weights names.

A rule is carried about, and its judges with it: a tokenizer is known by the tokens it gives to an example, so that
the first judge's, wherever it stands now, serves if it is the one that the rule was fitted by.
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
    """Tokens [N] of the prompt and both responses, all turns, uncut and without the judge's frame."""
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
    """SHA-256 of the tokens of a text of many scripts: the same for tokenizers that count alike."""
    return hashlib.sha256(json.dumps(tokenizer(EXAMPLE_TEXT)["input_ids"]).encode()).hexdigest()


def tokenizer_of_judge(probs: Probs):
    """
    The tokenizer of the judge that made a probs file, and the judge's name.

    Raises:
        InputError: the judge is not here.
    """
    folder = find_judge(probs.metadata, probs.path)
    if folder is None:
        raise InputError(
            f"{probs.path}: weights by tokens are counted by the tokenizer of its judge, "
            f"{probs.metadata.get('model') or 'which is not known'}, and that is not here. Name a folder or a hub id "
            'as "tokenizer" in a rule (--weights RULE.json), or take weights by language.'
        )
    return load_tokenizer(str(folder)), name_of(folder)


def tokenizer_of_rule(rule, probs: Probs):
    """
    The tokenizer that a rule by tokens counts with: the one it names, or by default that of the first judge.

    Args:
        rule: an `ensemble.Rule`.
        probs: of the first judge.

    Raises:
        InputError: it is not here, or is another one than the rule was fitted by.
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
            f"{rule.tokenizer}: gives other tokens than the tokenizer that the rule's weights by tokens were fitted "
            'by. Fit them again (--fit), or name the right one as "tokenizer" in the rule.'
        )
    return tokenizer


def _load_named(name: str):
    """The tokenizer in a folder or of a hub id, `ID@COMMIT` included."""
    model, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    return load_tokenizer(model, revision or None)
