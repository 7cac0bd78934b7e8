"""
Escape the text of a battle: it is encoded as plain text and can be neither a control token nor a tag of our prompt.

Control tokens are excluded by construction: the vocabulary that encodes fields does not contain them. Tags are plain
text in every model family, so a tag in a field gets a backslash, `<\\/Request>`, which can be undone.
"""

import json
import re
from collections.abc import Container, Iterable

from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sft_judge.core.errors import InputError

REPLACEMENT = "\ufffd"  # Unicode's replacement character
_UTF8_BYTES = {*range(0xC0), *range(0xC2, 0xF5)}  # the other bytes are not valid in UTF-8 (RFC 3629, section 3)
# Allowed inside a tag: spaces, "▁" (a space in SentencePiece), and invisible characters.
_GAP = r"[\s▁\x00-\x1f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]*+"
_TAG = re.compile(r"<\s*/?\s*([^<>\n]{1,80}?)\s*/?\s*>")
# These normalizers do not produce "<", ">" or a letter of a tag from other characters.
_HARMLESS_NORMALIZERS = ("NFC", "NFD", "Prepend")


def tokenizer_state(tokenizer) -> dict:
    """Return the content of tokenizer.json, without truncation or padding that an earlier call may have set."""
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}


def plain_copy(name: str, state: dict) -> Tokenizer:
    """
    Return a copy of a tokenizer without control tokens: it encodes them like any other text, and adds no prefix.

    All added tokens are removed, also those that are not `special` (`<think>`, `<unused0>`), except spaces and line
    breaks, which are text. They are removed from the vocabulary with all merges through them, so that no text can
    become one.

    Args:
        name: name of the tokenizer, for messages.
        state: content of its tokenizer.json.

    Raises:
        InputError: the model is not byte-pair encoding, or the remaining vocabulary cannot encode every text.
    """
    model = dict(state["model"])
    if model["type"] != "BPE":
        raise InputError(f"{name}: got a {model['type']} tokenizer, but a judge needs byte-pair encoding (BPE).")
    control = {token["content"] for token in state["added_tokens"] if token["content"].strip(" \t\r\n▁")}
    if model.get("byte_fallback"):
        control -= set(_byte_tokens())
    prefix = len(model.get("continuing_subword_prefix") or "")
    model["vocab"] = {symbol: token for symbol, token in model["vocab"].items() if symbol not in control}
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    model["merges"] = [
        [left, right] for left, right in merges if control.isdisjoint((left, right, left + right[prefix:]))
    ]
    model |= {"unk_token": None, "dropout": None}
    state = state | {"model": model, "added_tokens": [], "post_processor": None}
    _check_spells_all(name, state, control)
    return Tokenizer.from_str(json.dumps(without_prefix(state)))


def without_prefix(state):
    """
    Return a tokenizer state without the space that some families put before a text: a field does not start a text.
    """
    if isinstance(state, list):
        return [without_prefix(value) for value in state if not _is(value, "Prepend")]
    if not isinstance(state, dict):
        return state
    changes = {"add_prefix_space": False} if _is(state, "ByteLevel") else {}
    changes |= {"prepend_scheme": "never"} if _is(state, "Metaspace") else {}
    parts = {key: without_prefix(state[key]) for key in ("pretokenizers", "normalizers") if key in state}
    for key in ("normalizer", "pre_tokenizer"):
        if key in state:
            parts[key] = None if _is(state[key], "Prepend") else without_prefix(state[key])
    return {**state, **parts, **changes}


def inside_characters(plain: Tokenizer, state: dict) -> frozenset[int]:
    """
    Return the tokens that start within a character, that is with a continuation byte of UTF-8 (0x80 to 0xBF).

    Args:
        plain: result of `plain_copy`.
        state: content of the tokenizer.json that it was made from.
    """
    vocabulary = plain.get_vocab()
    if state["model"].get("byte_fallback"):
        return frozenset(vocabulary[symbol] for symbol in _byte_tokens()[0x80:0xC0])
    inside = {symbol for byte, symbol in bytes_to_unicode().items() if 0x80 <= byte <= 0xBF}
    return frozenset(token for symbol, token in vocabulary.items() if symbol[:1] in inside)


def tag_names(text: str, control: Container[str] = ()) -> set[str]:
    """
    Return the names in angle brackets in a prompt, except control tokens. Slashes are removed, and any number becomes
    0.

    Args:
        text: text of the prompt.
        control: control tokens.
    """
    return {re.sub(r"\d+", "0", tag[1]) for tag in _TAG.finditer(text) if tag[0] not in control}


class TagGuard:
    """
    Insert a backslash into tags with these names in the text of a field, and remove it again.

    Opening and closing tags are found, in any case, with spaces and invisible characters inside. A tag that has
    backslashes gets one more, so that `unescape(escape(text)) == text` for every text.

    Args:
        names: names of the tags.
    """

    def __init__(self, names: Iterable[str]):
        words = "|".join(sorted(map(_name_pattern, names))) or r"(?!)"
        tag = rf"(?=\\*+{_GAP}(?:/{_GAP})?+(?:{words}){_GAP}(?:/{_GAP})?+>)"
        self._bare = re.compile("<" + tag, re.IGNORECASE)
        self._escaped = re.compile(r"<\\" + tag, re.IGNORECASE)

    def escape(self, text: str) -> str:
        """Escape the tags in a text."""
        return self._bare.sub(r"<\\", text) if "<" in text else text

    def unescape(self, text: str) -> str:
        """Undo `escape`."""
        return self._escaped.sub("<", text)

    def find(self, text: str) -> list[str]:
        """Return the tags in a text that have no backslash."""
        tags = (text[place.start() : text.index(">", place.start()) + 1] for place in self._bare.finditer(text))
        return [tag for tag in tags if not tag.startswith("<\\")]


def changes_brackets(state: dict) -> bool:
    """Return True if the normalizer may turn other text into a tag, as NFKC turns a full-width bracket into "<"."""
    normalizer = state["normalizer"]
    parts = normalizer.get("normalizers", [normalizer]) if normalizer else []
    return not all(part["type"] in _HARMLESS_NORMALIZERS or part.get("content") == "▁" for part in parts)


def _check_spells_all(name: str, state: dict, control: set[str]) -> None:
    byte_level = '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["normalizer"]])
    if not byte_level and not state["model"].get("byte_fallback"):
        raise InputError(f"{name}: its vocabulary has no bytes, so rare characters would be lost; use another model.")
    symbols = bytes_to_unicode().values() if byte_level else _byte_tokens()
    for symbol in symbols:
        if symbol in control:
            raise InputError(f"{name}: plain text can become the control token {symbol!r}, a single character.")


def unspelled_characters(name: str, state: dict) -> re.Pattern | None:
    """
    Find the characters with a byte that the vocabulary lacks, such as six control characters for SmolLM2.

    Args:
        name: name of the tokenizer, for messages.
        state: content of its tokenizer.json.

    Returns:
        A pattern for one such character; None if every text can be encoded.

    Raises:
        InputError: the missing byte is part of thousands of characters, or of `REPLACEMENT`.
    """
    vocabulary = state["model"]["vocab"]
    byte_level = '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["normalizer"]])
    symbols = bytes_to_unicode() if byte_level else dict(enumerate(_byte_tokens()))
    missing = [byte for byte, symbol in sorted(symbols.items()) if symbol not in vocabulary and byte in _UTF8_BYTES]
    lost = [byte for byte in missing if 0x80 <= byte <= 0xBF or byte in REPLACEMENT.encode()]
    if lost:
        raise InputError(
            f"{name}: its vocabulary lacks the byte 0x{lost[0]:02X}, so most texts would lose characters."
        )
    ranges = "".join(
        f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in map(_characters_with_first_byte, missing)
    )
    return re.compile(f"[{ranges}]") if ranges else None


def _characters_with_first_byte(byte: int) -> tuple[int, int]:
    """Return the first and the last character whose UTF-8 encoding starts with a byte (RFC 3629, section 3)."""
    if byte < 0x80:
        return byte, byte
    bits = 6 if byte < 0xE0 else 12 if byte < 0xF0 else 18
    first = (byte & (0x1F if byte < 0xE0 else 0x0F if byte < 0xF0 else 0x07)) << bits
    return max(first, {0xE0: 0x800, 0xF0: 0x10000}.get(byte, first)), min(first + (1 << bits) - 1, 0x10FFFF)


def _name_pattern(name: str) -> str:
    words = [r"\d+".join(map(re.escape, word.split("0"))) for word in name.split()]
    return _GAP.join(words)


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _is(value, kind: str) -> bool:
    return isinstance(value, dict) and value.get("type") == kind
