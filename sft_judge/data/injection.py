"""
Injected text in battles: text that could be taken for control tokens, prompt tags or instructions to the judge.

The text is counted by kind; nothing is changed or left out. A judge's prompt is built so that control tokens and tags
in a battle have no effect, but a user should know if the training rows contain them. The kinds and their patterns are
defined here only.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# the special tokens of each family's chat template
CONTROL_TOKENS = {
    "ChatML, Qwen, LFM": (
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
        *("<|video_pad|>", "<|startoftext|>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>"),
        *("<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>"),
    ),
    "Llama 3": (
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        *("<|eom_id|>", "<|python_tag|>", "<|eot|>", "<|eom|>", "<|header_start|>", "<|header_end|>"),
    ),
    "Llama 2, Mistral": (
        *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<unk>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
        *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]"),
    ),
    "Gemma": (
        *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<start_of_image>", "<end_of_image>"),
        *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"),
        *("<|tool_response>", "<tool_response|>", '<|"|>'),
    ),
    "Phi, GLM": (
        *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|observation|>", "[gMASK]", "<sop>"),
        *("<|begin_of_image|>", "<|end_of_image|>"),
    ),
    "GPT-OSS": ("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|final|>", "<|constrain|>"),
    "Cohere": (
        *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        *("<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<BOS_TOKEN>", "<EOS_TOKEN>"),
    ),
    "DeepSeek": (
        *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
    ),
    "thinking and tools": (
        *("<think>", "</think>", "<|think|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        "<end_of_utterance>",
    ),
}
OTHER_CONTROL_TOKENS = "control tokens: others of this form"
_ANSWER = r"(?:response|answer|assistant|option)s?"
# RE2 pattern of each kind, case-insensitive. Invisible characters are written as Python escapes.
PATTERNS = {
    **{f"control tokens: {family}": "|".join(map(re.escape, tokens)) for family, tokens in CONTROL_TOKENS.items()},
    OTHER_CONTROL_TOKENS: r"<\|[^|<>\s]{1,40}\|>|<\|[a-z_]{1,40}>|<[a-z_]{1,40}\|>|<｜[^｜\s]{1,40}｜>",
    # the one-letter tags of the template `compact` are left out, because HTML has them too
    "tags of our prompt templates": r"</?(?:request|language|(?:response|round|turn)_[^<>\s]{1,12})>",
    "bidirectional overrides": "[\u202a-\u202e\u2066-\u2069]",
    "zero-width joiners": "[\u200c\u200d]",  # emoji and several scripts need them
    "other zero-width characters": "[\u200b\u2060-\u2064\ufeff\u180e]",
    "invisible tag characters": "[\U000e0000-\U000e007f]",
    "orders to forget instructions": (
        r"\b(?:ignore|disregard|forget|override)\s+(?:all\s+|any\s+|the\s+|your\s+|my\s+|these\s+|of\s+)*"
        r"(?:previous|prior|above|earlier|preceding|foregoing|system)\b[^.\n]{0,40}?\b(?:instruction|prompt|rule|direction)"
    ),
    "verdicts in the text": (
        r"\[\[(?:[abc]|tie)\]\]|\b(?:final\s+)?(?:verdict|judge?ment)\s*(?::|is)\s*[\"'*(]{0,3}(?:[ab]\b|tie\b|response|assistant)"
        rf"|\b(?:choose|pick|select|prefer|vote\s+for)\s+{_ANSWER}\s+[ab]\b"
        rf"|\b{_ANSWER}\s+[ab]\s+(?:is|was)\s+(?:clearly\s+|much\s+|far\s+)?(?:better|best|superior|preferred|the\s+winner)\b"
    ),
}
_ANY = "|".join(f"(?:{pattern})" for pattern in PATTERNS.values())
_KNOWN = "(?i)" + "|".join(re.escape(token) for tokens in CONTROL_TOKENS.values() for token in tokens)


def find_injected_rows(battles: pa.Table, field: str) -> dict[str, np.ndarray]:
    """
    Find the rows of a field that contain injected text.

    Args:
        battles: the battles.
        field: one of FIELDS.

    Returns:
        For each kind that occurs, the sorted row numbers without repetition.
    """
    turns = battles[field].combine_chunks()
    row_of = pc.list_parent_indices(turns)
    masks = find_injections(pc.list_flatten(turns))
    return {kind: np.unique(row_of.take(places).to_numpy()) for kind, places in masks.items()}


def find_injections(turns: pa.Array) -> dict[str, pa.Array]:
    """Find the positions among the turns `[T]` that contain injected text, for each kind that occurs."""
    suspects = pc.indices_nonzero(pc.match_substring_regex(turns, _ANY, ignore_case=True))
    texts = turns.take(suspects)
    masks = {}
    for kind, pattern in PATTERNS.items():
        searched = pc.replace_substring_regex(texts, _KNOWN, "") if kind == OTHER_CONTROL_TOKENS else texts
        places = suspects.filter(pc.match_substring_regex(searched, pattern, ignore_case=True))
        if len(places):
            masks[kind] = places
    return masks
