"""
Compare the peak memory that `train --plan` predicts with the measured peak: the ratio of the larger to the smaller.

Each configuration is a random model of a real family with a peak above 2 GB, trained for a few steps by the command
line in a separate process. The measured value is the peak of resident memory beyond that of the libraries. Three
measures make resident memory equal to allocated memory. malloc returns freed memory at once (MALLOC_MMAP_THRESHOLD_;
by default, glibc keeps up to as much again). Pages of the file of weights that loading left in memory are evicted
before the first step, as those of quantised weights are not needed again. Weights that are still mapped from the file
are read once.
"""

import ctypes
import json
import re
import sys
import tempfile
from pathlib import Path

from measuring import apart, chosen, new_peak, over_rounds, peak, resident, return_freed_memory

STEPS, BATTLES = 3, 16
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}
# family, sizes, tokens per row, settings of the recipe
CONFIGURATIONS = {
    "all parameters": (
        "qwen2",
        {
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 12,
            "tie_word_embeddings": True,
            **HEADS,
        },
        256,
        {"use_peft": False, "per_device_train_batch_size": 1},
    ),
    "LoRA": (
        "qwen2",
        {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, **HEADS},
        1024,
        {"per_device_train_batch_size": 2},
    ),
    "LoRA, checkpointed": (
        "llama",
        {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 12, **HEADS},
        768,
        {"per_device_train_batch_size": 2, "gradient_checkpointing": True},
    ),
    "DoRA, eager attention, accumulated": (
        "gemma2",
        {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 5, "head_dim": 64, **HEADS},
        1024,
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_dora": True},
    ),
    "QLoRA": (
        "qwen3",
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "head_dim": 128, **HEADS},
        768,
        {"per_device_train_batch_size": 2, "load_in_4bit": True, "use_bnb_nested_quant": True},
    ),
}
TOKENIZERS = {"qwen2": "qwen2.5", "qwen3": "qwen3", "llama": "llama3", "gemma2": "gemma"}
MADV_PAGEOUT = 21  # Linux: pages are read again when needed; MADV_DONTNEED would lose modified pages


def make(name: str, folder: Path) -> None:
    """
    Write the model, and battles that are long enough for every row to be cut to the budget.

    Args:
        name: configuration, of CONFIGURATIONS.
        folder: folder to write to.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from sft_judge.data.battles import battle_table, write_battles
    from sft_judge.modeling.tiny_tokenizers import tokenizer_of

    family, sizes, _, _ = CONFIGURATIONS[name]
    tokenizer = tokenizer_of(TOKENIZERS[family])
    set_seed(0)
    special = {key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(family, vocab_size=32_000, max_position_embeddings=4096, **sizes, **special)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    text = "people prefer the answer " * 3000
    rows = [
        {"id": str(row), "prompt": ["which?"], "response_a": [text], "response_b": [text], "verdict": "a"}
        for row in range(BATTLES)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))


def words(name: str, folder: Path) -> list[str]:
    """
    Return the arguments of the training command.

    Args:
        name: configuration, of CONFIGURATIONS.
        folder: folder with the model and the battles.
    """
    _, _, tokens, changes = CONFIGURATIONS[name]
    budget = dict.fromkeys(("prompt_budget", "response_budget", "total_budget"), tokens)
    settings = {
        **{"model_name_or_path": folder / "model", "battles": folder / "battles.parquet"},
        **{"output_dir": folder / "judge", "max_steps": STEPS, "save_strategy": "no", "lora_r": 64, **budget},
    }
    given = {**settings, **changes}.items()
    return ["--config", "tiny/train", *(str(word) for key, value in given for word in (f"--{key}", value))]


def predicted(name: str, folder: Path) -> float:
    """
    Return the peak memory that the plan predicts, in bytes.

    Args:
        name: configuration, of CONFIGURATIONS.
        folder: folder with the model and the battles.
    """
    from sft_judge.modeling.architectures import model_config_of
    from sft_judge.pipelines.planning.step_cost import step_cost
    from sft_judge.training.recipes import read_recipe

    config, adapters = read_recipe("tiny/train", words(name, folder)[2:]).configs()
    model_config = model_config_of(adapters.model_name_or_path)
    return step_cost(model_config, config, adapters, 2 * config.per_device_train_batch_size, config.total_budget).peak


def put_out_file_pages() -> None:
    """Evict pages mapped from files of weights from this process's memory; pages in use are read again."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    for low, high in re.findall(r"^(\w+)-(\w+) .*\.safetensors$", Path("/proc/self/maps").read_text(), re.M):
        start = int(low, 16)
        assert madvise(ctypes.c_void_p(start), ctypes.c_size_t(int(high, 16) - start), MADV_PAGEOUT) == 0


def measured(name: str, folder: Path) -> float:
    """
    Train, and return the peak of resident memory beyond that of the libraries, in bytes.

    Args:
        name: configuration, of CONFIGURATIONS.
        folder: folder with the model and the battles.
    """
    from transformers import TrainerCallback

    import sft_judge.training.train as training
    from sft_judge.cli import main

    class ReadWeights(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **kwargs):
            put_out_file_pages()
            for weight in model.parameters():
                weight.detach().view(-1)[:: 1024 // weight.element_size()].sum()
            new_peak()

    whole = training.JudgeTrainer
    training.JudgeTrainer = lambda **options: whole(**options, callbacks=[ReadWeights()])
    before = resident()
    sys.stdout = sys.stderr
    assert main(["train", *words(name, folder)]) == 0
    return peak() - before


def compare(name: str) -> dict:
    """Return the result of a configuration for `bench.py`."""
    with tempfile.TemporaryDirectory() as folder:
        apart(make, name, Path(folder))
        plan, seen = apart(predicted, name, Path(folder)), apart(measured, name, Path(folder))
    print(f"  {name}: predicted {plan / 2**20:,.0f} MB, measured {seen / 2**20:,.0f} MB", file=sys.stderr, flush=True)
    off = max(plan / seen, seen / plan)
    what = f"peak memory by --plan against measured ({seen / 1e9:.1f} GB), {name}"
    return over_rounds(what, lambda _: off, 1, "<= 1.15")


def main() -> None:
    names = chosen(__doc__, CONFIGURATIONS)
    return_freed_memory()
    import sft_judge.core.third_party  # noqa: F401
    import sft_judge.training.train  # noqa: F401

    print(json.dumps([compare(name) for name in names]))


if __name__ == "__main__":
    main()
