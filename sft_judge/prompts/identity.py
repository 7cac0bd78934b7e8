"""
Check that a prompt is still the one a judge was trained with: the example prompt in judge.json, and the vocabulary.

A chat template, a tokenizer or a library may change between training and use. The example prompt reveals this before
any battle is scored.
"""

import hashlib
import json

from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS
from sft_judge.modeling.judge_spec import JudgeSpec

# letters of several scripts, digits, spaces and line breaks, for which tokenizers differ
EXAMPLE_TEXT = "Why 3.14 < 22/7?\n\n  def f(x): return x**2  # naïve, Größe, Ωmega, мир, 你好, שלום, 🙂"
CONTEXT = 30  # characters shown on each side of a difference


def record_prompt(prompt) -> dict:
    """
    Build the example prompt that judge.json stores.

    Args:
        prompt: a `JudgePrompt`.

    Returns:
        `text`, the prompt with the names of the fields instead of their text, and `ids_sha256`, the hash of the token
        ids with `EXAMPLE_TEXT` in each field.
    """
    frame = prompt.frame(1, 1, 1, prompt.language)
    names = [f"[{name}]" for name, _ in frame.slots] + [""]
    text = "".join(piece + name for piece, name in zip(frame.texts, names, strict=True))
    row = {name: [EXAMPLE_TEXT] for name in FIELDS} | {"language": "English"}
    ids = prompt.ids(prompt.fit([row])[0])
    return {"text": text, "ids_sha256": hashlib.sha256(json.dumps(ids).encode()).hexdigest()}


def check_prompt(prompt, spec: JudgeSpec) -> None:
    """
    Check that a prompt is the one a judge was made with.

    Args:
        prompt: a `JudgePrompt`.
        spec: the judge's judge.json.

    Raises:
        InputError: the verdicts have other tokens, or the example prompt has another text or other tokens.
    """
    where = prompt.tokenizer.name_or_path
    if prompt.verdict_ids != spec.verdict_ids:
        raise InputError(
            f"{where}: the tokenizer gives verdict ids {prompt.verdict_ids}, but judge.json has {spec.verdict_ids}."
        )
    if spec.frame is None:
        if prompt.tokenizer.chat_template is None:
            raise InputError(
                f"{where}: there is no chat template, and judge.json has no example prompt: an earlier version of "
                "sft_judge made this judge with another plain prompt. Train it again."
            )
        return
    now = record_prompt(prompt)
    if now["text"] != spec.frame["text"]:
        seen, expected = _first_difference(now["text"], spec.frame["text"])
        raise InputError(
            f"{where}: its chat template gives another prompt than the judge was made with: got {seen!r}, expected "
            f"{expected!r}. Restore chat_template.jinja and tokenizer_config.json, or train again."
        )
    if now["ids_sha256"] != spec.frame["ids_sha256"]:
        raise InputError(
            f"{where}: the tokenizer gives other tokens for the same prompt than when the judge was made. Restore its "
            "files, or the versions of transformers and tokenizers that the manifest names."
        )


def check_vocabulary(prompt, num_rows: int) -> None:
    """
    Check that every token of a prompt has a row in the model's embedding.

    Args:
        prompt: a `JudgePrompt`.
        num_rows: `vocab_size` of the model's configuration.

    Raises:
        InputError: a token of the template, of a field's text, of a verdict or of the padding is beyond the last row.
    """
    tokenizer = prompt.tokenizer
    frame = [token for piece in prompt.frame(1, 1, 1, prompt.language).pieces for token in piece]
    largest = {
        "the pad token": tokenizer.pad_token_id or 0,
        "a verdict": max(prompt.verdict_ids),
        "the prompt's frame": max(frame),
        "the vocabulary": max(prompt.plain.get_vocab().values()),
    }
    for what, token in largest.items():
        if token >= num_rows:
            raise InputError(
                f"{tokenizer.name_or_path}: {what} has token {token} ({tokenizer.convert_ids_to_tokens(token)!r}), "
                f"but the model's embedding has {num_rows} rows. Use the model's own tokenizer, or another pad_token."
            )


def _first_difference(one: str, other: str) -> tuple[str, str]:
    """Return the text around the first character in which two texts differ, for each of them."""
    same = next((place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), None)
    place = min(len(one), len(other)) if same is None else same
    return tuple(text[max(0, place - CONTEXT) : place + CONTEXT] for text in (one, other))
