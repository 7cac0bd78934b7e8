"""Verdict words for A, B and tie, and the single token of each at the answer position."""

import logging
import re

from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS
from sft_judge.prompts.templates import FrameTemplate

logger = logging.getLogger(__name__)


def verdict_id(tokenizer, tail: str, word: str) -> int:
    """
    Return the token id of `word` after the text `tail`.

    Args:
        tokenizer: the tokenizer.
        tail: text before the answer.
        word: the verdict word.

    Raises:
        InputError: the word is not exactly one more token.
    """
    before = tokenizer(tail, add_special_tokens=False)["input_ids"]
    after = tokenizer(tail + word, add_special_tokens=False)["input_ids"]
    if after[: len(before)] != before:
        raise InputError(
            f"Verdict {word!r} merges with the text before it ({tail[-20:]!r}) in {tokenizer.name_or_path}. "
            "End the prompt template on a line break or choose another word."
        )
    if len(after) != len(before) + 1:
        tokens = tokenizer.convert_ids_to_tokens(after[len(before) :])
        raise InputError(
            f"Verdict {word!r} is {len(tokens)} tokens {tokens} in {tokenizer.name_or_path}, but the loss looks at "
            "one answer token. Use a shorter verdict word, e.g. 'C' for a tie."
        )
    return after[-1]


def opened_thought(tail: str) -> str | None:
    """Return the reasoning tag that is open at the answer position, such as `<think>`, or None."""
    names = re.findall(r"<(\w*think\w*)>", tail)
    return next((f"<{name}>" for name in names if f"</{name}>" not in tail), None)


def describe_thought(tag: str) -> str:
    """Describe the effect of an open reasoning tag on a judge."""
    return (
        f"the chat template opens {tag} before the answer, even with enable_thinking off: an untrained model would "
        "start to reason there instead of answering. Use the family's template without thinking"
    )


def choose_verdict_words(tokenizer, template: str, num_verdicts: int) -> list[str]:
    """
    Choose the verdict words: A, B and tie, with C instead of tie if the tokenizer has no single token for tie.

    Args:
        tokenizer: the tokenizer.
        template: text of the prompt template.
        num_verdicts: 2 or 3.
    """
    if num_verdicts == 2:
        return ["A", "B"]
    words = ["A", "B", "tie"]
    texts, _ = FrameTemplate(template).render(tokenizer, dict.fromkeys(FIELDS, 1), False, words)
    try:
        verdict_id(tokenizer, texts[-1], words[2])
    except InputError:
        words[2] = "C"
        logger.warning("'tie' is not one token in %s: the verdict words are A, B, C.", tokenizer.name_or_path)
    return words
