"""
Tiny random models of real families, with tokenizers that are trained on the spot.

They replace pretrained weights where none are available. The model class, the kind of tokenizer and the chat template
are those of the family; only the sizes differ.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
import trl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
WORDS = ["A", "B", "C", "tie"]  # must be single tokens, whatever the training text
TINY_SIZES = {
    "hidden_size": 128,  # the group size of auto-round
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 64,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "image_size": 28,
    "patch_size": 14,
    "mm_tokens_per_image": 4,
}
DERIVED = ("layer_types", "max_window_layers", "architectures", "_name_or_path", "transformers_version")


def qwen2_tokenizer(texts: Iterable[str], vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """
    Train a byte-level BPE tokenizer with ChatML's control tokens, like Qwen2.5's.

    Args:
        texts: training texts.
        vocab_size: size of the vocabulary.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pattern(), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=(TEMPLATES / "qwen2_5.jinja").read_text(encoding="utf-8"),
    )


def gemma2_tokenizer(texts: Iterable[str], vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """
    Train a BPE tokenizer over characters with byte fallback and "▁" for a space, like Gemma's; no system role.

    Args:
        texts: training texts.
        vocab_size: size of the vocabulary.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*special, *fallback], limit_alphabet=2000, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer gets the bytes as special tokens so that they are in the vocabulary; in Gemma they are not special.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=(TEMPLATES / "gemma.jinja").read_text(encoding="utf-8"),
    )


def qwen2_model(tokenizer, hidden: int, layers: int, positions: int) -> transformers.Qwen2ForCausalLM:
    """
    Create a tiny Qwen2 with random weights.

    Args:
        tokenizer: its tokenizer.
        hidden: hidden size.
        layers: number of layers.
        positions: maximum number of positions.
    """
    config = transformers.Qwen2Config(
        **_sizes(tokenizer, hidden, layers, positions), **_heads(hidden), tie_word_embeddings=True
    )
    return transformers.Qwen2ForCausalLM(config)


def gemma2_model(tokenizer, hidden: int, layers: int, positions: int) -> transformers.Gemma2ForCausalLM:
    """
    Create a tiny Gemma-2 with random weights, both soft-caps and the alternating sliding window.

    Args:
        tokenizer: its tokenizer.
        hidden: hidden size.
        layers: number of layers.
        positions: maximum number of positions.
    """
    config = transformers.Gemma2Config(
        **_sizes(tokenizer, hidden, layers, positions),
        **_heads(hidden),
        head_dim=hidden // _heads(hidden)["num_attention_heads"],
        query_pre_attn_scalar=hidden // _heads(hidden)["num_attention_heads"],
        sliding_window=positions // 2,
        attn_implementation="eager",
    )
    return transformers.Gemma2ForCausalLM(config)


def _heads(hidden: int) -> dict[str, int]:
    """
    Return the numbers of heads: two queries per key, and a head size of at least 32, the smallest of vLLM on AMX CPUs.
    """
    heads = max(2, min(4, hidden // 32))
    return {"num_attention_heads": heads, "num_key_value_heads": heads // 2}


FAMILIES = {"qwen2": (qwen2_tokenizer, qwen2_model), "gemma2": (gemma2_tokenizer, gemma2_model)}


def make_base(folder: Path, family: str, texts: list[str], hidden=128, layers=2, vocab=2048, positions=1024, seed=0):
    """
    Train a tokenizer, create a model with random weights, and save both.

    Args:
        folder: folder to write into.
        family: key of FAMILIES.
        texts: training texts of the tokenizer.
        hidden: hidden size.
        layers: number of layers.
        vocab: size of the vocabulary.
        positions: maximum number of positions.
        seed: seed of the weights.

    Returns:
        Number of parameters, and size of the vocabulary.
    """
    make_tokenizer, make_model = FAMILIES[family]
    # The answer words are added many times, each on its own line, so that byte-pair merging makes them tokens.
    tokenizer = make_tokenizer([*texts, *("\n".join(WORDS) + "\n" for _ in range(max(100, len(texts) // 10)))], vocab)
    transformers.set_seed(seed)
    model = make_model(tokenizer, hidden, layers, positions)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters(), len(tokenizer)


def perturb_weights(model: transformers.PreTrainedModel, spread: float = 0.05) -> None:
    """
    Add noise to the weights in place. Initial weights are so small that a judge would score every battle alike.

    Args:
        model: the model.
        spread: standard deviation of the noise.
    """
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * spread)


def shrink_config(config: transformers.PretrainedConfig, tokenizer) -> transformers.PretrainedConfig:
    """
    Return a tiny configuration of the same class and features; only sizes are changed.

    Args:
        config: the configuration.
        tokenizer: the tokenizer, for the vocabulary and special tokens.
    """
    whole = config.to_dict()
    own = {key: value for key, value in whole.items() if key not in DERIVED}
    small = {key: value for key, value in TINY_SIZES.items() if own.get(key) is not None}
    small |= _small_attention(own)
    # With two layers, a repeating pattern of six would have no full-attention layer, so both kinds are chosen here.
    if kinds := whole.get("layer_types"):
        small["layer_types"] = [kinds[0], max(kinds, key=lambda kind: (kind != kinds[0], kind == "full_attention"))]
    if "vocab_size" in own:
        small["vocab_size"] = -(-len(tokenizer) // 64) * 64
        small |= {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    for name in own:
        if isinstance(getattr(config, name, None), transformers.PretrainedConfig):
            small[name] = shrink_config(getattr(config, name), tokenizer)
    return type(config)(**{**own, **small})


def _small_attention(own: dict) -> dict:
    """
    Return attention sizes with the same relations: heads wider or narrower than the model, and the sharing of keys.
    """
    heads, keys, width = (own.get(name) for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    small, tiny = {}, TINY_SIZES["num_attention_heads"]
    if keys:
        small["num_key_value_heads"] = {1: 1, heads: tiny}.get(keys, tiny // 2)
    if not (heads and width and "hidden_size" in own):
        return small
    if heads * width > own["hidden_size"]:
        small["head_dim"] = 2 * TINY_SIZES["head_dim"]
        if own.get("query_pre_attn_scalar") == width:
            small["query_pre_attn_scalar"] = small["head_dim"]
    elif heads * width < own["hidden_size"]:
        small["hidden_size"] = 2 * TINY_SIZES["hidden_size"]
    return small


def _sizes(tokenizer, hidden: int, layers: int, positions: int) -> dict:
    return {
        "vocab_size": len(tokenizer) + -len(tokenizer) % 64,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "max_position_embeddings": positions,
        "initializer_range": 0.02,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _pattern():
    from tokenizers import Regex

    # Qwen2's split from its tokenizer.json: words with their leading space, single digits, punctuation, line breaks
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    return Regex(words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
