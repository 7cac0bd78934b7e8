"""
Tiny tokenizers of the model families, with the chat templates of TRL or those defined here.

Two vocabularies are trained, a byte-level one and one with byte fallback. A family changes the parts around the
vocabulary, in which real tokenizers differ: control tokens, other added tokens, normalizer, prefix space,
post-processor.
"""

import json
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sft_judge.modeling.tiny_models import TEMPLATES, gemma2_tokenizer, qwen2_tokenizer

MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
[INST] {{ message['content'] }}[/INST]\
{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}{% else %}\
{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
PHI4 = """{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_sep|>{{ message['content'] }}<|im_end|>\
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"""


@dataclass(frozen=True)
class Family:
    """Describe the parts of a family's tokenizer around its vocabulary."""

    chat: str  # name of a template file of TRL, or the text of a template
    control: tuple[str, ...]
    byte_level: bool = True
    words: tuple[str, ...] = ()  # added tokens that are not `special`
    bos: str | None = None
    pad: str | None = None
    nfc: bool = False
    prefix: str | None = None  # "normalizer" or "metaspace": the part that puts a space before a text
    rstrip: bool = False  # control tokens include the spaces after them
    ignore_merges: bool = False


QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
FAMILIES = {
    "qwen2.5": Family("qwen2_5", QWEN, nfc=True),
    "qwen3": Family(
        "qwen3", QWEN, nfc=True, words=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")
    ),
    "gemma": Family(
        "gemma", GEMMA, byte_level=False, words=("<unused0>", "[multimodal]", "<h1>", "\n\n", "▁▁"), bos="<bos>"
    ),
    "gemma3": Family("gemma3", (*GEMMA, "<start_of_image>"), byte_level=False, words=("<unused0>",), bos="<bos>"),
    "llama3": Family(
        "llama3",
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        ignore_merges=True,
    ),
    "phi3": Family(
        "phi3",
        ("<|endoftext|>", "<s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        byte_level=False,
        prefix="normalizer",
        rstrip=True,
    ),
    "phi4": Family(PHI4, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"), words=("<|dummy_0|>",)),
    "mistral": Family(
        MISTRAL,
        ("</s>", "<s>", "<unk>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        byte_level=False,
        prefix="metaspace",
        bos="<s>",
    ),
}


@cache
def train_tokenizer(byte_level: bool) -> dict:
    """
    Train a small vocabulary with the verdict words, with and without a space before them; return its tokenizer.json.
    """
    make = qwen2_tokenizer if byte_level else gemma2_tokenizer
    text = "You judge which of two responses people prefer. Answer with one word: A, B, or tie if neither is better.\n"
    tags = "<Request>\n</Request>\n<Response_A>\n</Response_A>\n<Response_B>\n</Response_B>\n<Round_1><Turn_2>\n"
    words = "\nA\nB\ntie\nC\n A B tie C the answer, café naïve 漢字 Привет мир مرحبا 123\n"
    return json.loads(make([text, tags, words] * 200, 900).backend_tokenizer.to_str())


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a family, with its chat template."""
    family = FAMILIES[name]
    chat = TEMPLATES / f"{family.chat}.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=_set_shape(Tokenizer.from_str(json.dumps(_state(family))), family),
        bos_token=family.bos,
        eos_token=family.control[0],
        pad_token=family.control[0],
        chat_template=chat.read_text(encoding="utf-8") if "{" not in family.chat else family.chat,
        name_or_path=name,
    )


def _state(family: Family) -> dict:
    """Return the tokenizer.json of a family: the trained vocabulary with the family's added tokens."""
    state = json.loads(json.dumps(train_tokenizer(family.byte_level)))
    old = {token["content"] for token in state["added_tokens"]}
    symbols = [token for token in sorted(state["model"]["vocab"], key=state["model"]["vocab"].get) if token not in old]
    vocabulary = {symbol: token for token, symbol in enumerate(symbols)}
    if "<h1>" in family.words:  # as in Gemma, merges produce some of the added tokens
        for left, right in (("h", "1"), ("h1", ">"), ("<", "h1>"), ("\n", "\n"), ("▁", "▁")):
            vocabulary.setdefault(left + right, len(vocabulary))
            state["model"]["merges"].insert(0, [left, right])
        vocabulary.setdefault("h", len(vocabulary))
    state["added_tokens"] = []
    for content in (*family.control, *family.words):
        vocabulary.setdefault(content, len(vocabulary))
        state["added_tokens"].append(
            {
                "id": vocabulary[content],
                "content": content,
                "special": content in family.control,
                "rstrip": family.rstrip,
                **dict.fromkeys(("single_word", "lstrip", "normalized"), False),
            }
        )
    state["model"] |= {"vocab": vocabulary, "ignore_merges": family.ignore_merges}
    state["model"]["unk_token"] = "<unk>" if "<unk>" in vocabulary else None
    return state


def _set_shape(tokenizer: Tokenizer, family: Family) -> Tokenizer:
    """Set the family's normalizer, and the part that puts a space before a text."""
    if family.nfc:
        tokenizer.normalizer = normalizers.NFC()
    if family.prefix:
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    if family.prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None
    if family.prefix == "metaspace":
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=True)
    return tokenizer
