"""
Sizes of the models that the recipes name, from their config.json on the Hub.

They let `--plan` and `--shrink` work offline. The sizes of any other model are read from its own config.json. The
numbers of parameters are those of the model cards; a test computes them from the sizes.
"""

from dataclasses import dataclass

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from sft_judge.modeling.hub import is_gguf, model_folder
from sft_judge.modeling.loading import READ_BY_TRANSFORMERS, load_config, load_tokenizer


@dataclass(frozen=True)
class Architecture:
    """
    Hold a model's type and sizes, the family of its tokenizer (see tiny_tokenizers.py), and its billions of
    parameters.
    """

    model_type: str
    tokenizer: str
    billions: float
    sizes: dict


def _sizes(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocabulary: int, positions: int, **more):
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "tie_word_embeddings": False,
        **more,
    }


_QWEN_72B = _sizes(8192, 29568, 80, 64, 8, 152_064, 32_768, rope_theta=1e6, rms_norm_eps=1e-6)
_GEMMA_3_12B = {
    "text_config": _sizes(
        *(3840, 15360, 48, 16, 8, 262_208, 131_072),
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=1024,
        tie_word_embeddings=True,
    ),
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "mm_tokens_per_image": 256,
}
KNOWN_ARCHITECTURES = {
    "Qwen/Qwen2.5-0.5B-Instruct": Architecture(
        "qwen2", "qwen2.5", 0.494, _sizes(896, 4864, 24, 14, 2, 151_936, 32_768, tie_word_embeddings=True)
    ),
    "Qwen/Qwen2.5-3B-Instruct": Architecture(
        "qwen2", "qwen2.5", 3.086, _sizes(2048, 11008, 36, 16, 2, 151_936, 32_768, tie_word_embeddings=True)
    ),
    "Qwen/Qwen2.5-14B-Instruct": Architecture(
        "qwen2", "qwen2.5", 14.770, _sizes(5120, 13824, 48, 40, 8, 152_064, 32_768)
    ),
    "Qwen/Qwen2.5-72B-Instruct": Architecture("qwen2", "qwen2.5", 72.706, _QWEN_72B),
    "Nexusflow/Athene-V2-Chat": Architecture("qwen2", "qwen2.5", 72.706, _QWEN_72B),
    "Qwen/Qwen3-8B": Architecture(
        "qwen3", "qwen3", 8.191, _sizes(4096, 12288, 36, 32, 8, 151_936, 40_960, head_dim=128)
    ),
    "google/gemma-2-9b-it": Architecture(
        "gemma2",
        "gemma",
        9.242,
        _sizes(3584, 14336, 42, 16, 8, 256_000, 8192, head_dim=256, sliding_window=4096, tie_word_embeddings=True),
    ),
    "google/gemma-3-12b-it": Architecture("gemma3", "gemma3", 12.187, _GEMMA_3_12B),
    "meta-llama/Llama-3.3-70B-Instruct": Architecture(
        "llama", "llama3", 70.554, _sizes(8192, 28672, 80, 64, 8, 128_256, 131_072)
    ),
    "microsoft/phi-4": Architecture(
        "phi3", "phi4", 14.660, _sizes(5120, 17920, 40, 40, 10, 100_352, 16_384, pad_token_id=100_349)
    ),
    "mistralai/Mistral-Small-24B-Instruct-2501": Architecture(
        "mistral", "mistral", 23.572, _sizes(5120, 32768, 40, 32, 8, 131_072, 32_768, head_dim=128)
    ),
    # its tokenizer is a byte-level BPE with ChatML's control tokens, like Qwen2.5's
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(
        "llama", "qwen2.5", 0.1345, _sizes(576, 1536, 30, 9, 3, 49_152, 8192, rope_theta=1e5, tie_word_embeddings=True)
    ),
    "google/gemma-3-270m": Architecture(
        "gemma3_text",
        "gemma3",
        0.2681,
        _sizes(
            *(640, 2048, 18, 4, 1, 262_144, 32_768),
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=512,
            tie_word_embeddings=True,
        ),
    ),
}


def model_config_of(model: str, revision: str | None = None) -> PretrainedConfig:
    """
    Return the configuration of a known model, in bfloat16 as published, or load that of any other folder or Hub id.

    Args:
        model: folder, GGUF file or Hub id.
        revision: branch, tag or commit on the Hub.
    """
    architecture = KNOWN_ARCHITECTURES.get(model)
    if architecture is None:
        return load_config(_unpacked(model), revision)
    return AutoConfig.for_model(architecture.model_type, **architecture.sizes, dtype="bfloat16")


def tokenizer_at_hand(model: str, revision: str | None = None):
    """
    Load a model's tokenizer; None for a known model whose tokenizer is not cached on this machine.

    Args:
        model: folder, GGUF file or Hub id.
        revision: branch, tag or commit on the Hub.
    """
    if model not in KNOWN_ARCHITECTURES:
        return load_tokenizer(_unpacked(model), revision)
    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True, **READ_BY_TRANSFORMERS)
    except (OSError, ValueError):
        return None


def _unpacked(model: str) -> str:
    """Return the folder that a GGUF file was converted to; any other model is returned unchanged."""
    return model_folder(model)[0] if is_gguf(model) else model
