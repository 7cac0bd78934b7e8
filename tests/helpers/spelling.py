"""Second computations on the families' tokenizers: what ids spell, and byte-pair merging by hand."""

import json
import re
import unicodedata
from functools import cache

from sft_judge.modeling.tiny_tokenizers import FAMILIES, Family, tokenizer_of


def control_ids(tokenizer) -> set[int]:
    """All added tokens but spaces, tabs (Gemma's) and line breaks."""
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.content.strip("▁ \t\r\n")}


def text_of(tokenizer, ids: list[int]) -> str:
    """What token ids spell, by hand: bytes for byte-level, "▁" and <0x..> for the others."""
    symbols, control = tokenizer.convert_ids_to_tokens(ids), tokenizer.added_tokens_decoder
    if not _falls_back_to_bytes(tokenizer):
        return "".join(
            symbol if token in control else tokenizer.backend_tokenizer.decoder.decode([symbol])
            for token, symbol in _joined(ids, symbols, control)
        )
    spelled = b"".join(
        bytes([int(symbol[3:5], 16)]) if re.fullmatch(r"<0x[0-9A-F]{2}>", symbol) else symbol.encode()
        for symbol in symbols
    )
    return spelled.decode().replace("▁", " ")


@cache
def _falls_back_to_bytes(tokenizer) -> bool:
    return '"byte_fallback":true' in tokenizer.backend_tokenizer.to_str()


def _joined(ids, symbols, control):
    """Runs of plain tokens as one, since a character may stand across several."""
    run = ""
    for token, symbol in zip([*ids, -1], [*symbols, ""], strict=True):
        if token in control or token == -1:
            yield None, run
            run = ""
            if token != -1:
                yield token, symbol
        else:
            run += symbol


def pre_tokens(family: Family, text: str) -> list[str]:
    """The pre-tokens of a field, by hand."""
    text = unicodedata.normalize("NFC", text) if family.nfc else text
    if family.byte_level:
        return [word for word, _ in tokenizer_of("qwen2.5").backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    text = text.replace(" ", "▁")
    if family.prefix == "normalizer":
        return [text]
    pattern = r"\n|▁?[^\n▁]+|▁" if family.prefix is None else r"▁?[^▁]+|▁"
    return re.findall(pattern, text)


class Spelling:
    """A second way to a field's ids: byte-pair merging in twenty lines, control tokens out of reach."""

    def __init__(self, name: str):
        self.family, state = FAMILIES[name], json.loads(tokenizer_of(name).backend_tokenizer.to_str())
        control = {token["content"] for token in state["added_tokens"] if token["content"].strip("▁ \n")}
        self.vocabulary = {key: value for key, value in state["model"]["vocab"].items() if key not in control}
        merges = [pair for pair in map(tuple, state["model"]["merges"]) if "".join(pair) not in control]
        self.ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}

    def ids(self, text: str) -> list[int]:
        return [token for word in pre_tokens(self.family, text) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if self.family.ignore_merges and word in self.vocabulary:
            return [self.vocabulary[word]]
        symbols = [
            part
            for letter in word
            for part in ([letter] if letter in self.vocabulary else [f"<0x{byte:02X}>" for byte in letter.encode()])
        ]
        while len(symbols) > 1:
            rank, place = min(
                (self.ranks.get(pair, 1e9), at) for at, pair in enumerate(zip(symbols, symbols[1:], strict=False))
            )
            if rank == 1e9:
                break
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        return [self.vocabulary[symbol] for symbol in symbols]
