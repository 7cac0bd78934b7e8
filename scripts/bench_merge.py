"""
Measure the peak memory of `merge`, relative to the size of one file of weights: a base of 4.9 GB in five files.

The base is a random Qwen2 with ten layers in bfloat16. The adapters are LoRA of rank 16 on all linear layers. They are
merged by the command line in a separate process. PEFT's merge of the whole model in memory is printed for comparison.
10 GB of disk are used and freed.
"""

import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from measuring import apart, chosen, new_peak, over_rounds, peak, resident, return_freed_memory

SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 10, "num_attention_heads": 32}
SIZES |= {"num_key_value_heads": 8, "vocab_size": 32_000, "dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]}
FILES = 5


def make_base(folder: Path) -> None:
    """Write the base model, one file at a time."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from sft_judge.modeling.tiny_tokenizers import tokenizer_of

    config = AutoConfig.for_model("qwen2", **SIZES)
    config.save_pretrained(folder)
    tokenizer_of("qwen2.5").save_pretrained(folder)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    names = list(state)
    files, weight_map = [names[place::FILES] for place in range(FILES)], {}
    for place, part in enumerate(files, 1):
        file = f"model-{place:05d}-of-{FILES:05d}.safetensors"
        weights = {name: torch.empty(state[name].shape, dtype=torch.bfloat16).normal_(std=0.02) for name in part}
        save_file(weights, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_adapter(base: Path, folder: Path) -> None:
    """
    Write a judge with a random adapter.

    Args:
        base: folder of the base model.
        folder: folder to write.
    """
    from peft import LoraConfig, get_peft_model

    from sft_judge.conversion.merge_adapter import make_meta_model
    from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
    from sft_judge.modeling.loading import load_config
    from sft_judge.modeling.tiny_tokenizers import tokenizer_of
    from sft_judge.prompts.prompt import JudgePrompt
    from sft_judge.prompts.templates import read_template

    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(make_meta_model(load_config(str(base))), settings)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    tokenizer = tokenizer_of("qwen2.5")
    tokenizer.save_pretrained(folder)
    words, template = ["A", "B", "tie"], read_template("pair")
    ids = JudgePrompt(tokenizer, template, words, Budget()).verdict_ids
    write_spec(folder, JudgeSpec(words, ids, template, Budget()))


def merged(output: Path, *adapters: Path) -> tuple[int, float]:
    """
    Merge adapters by the command.

    Args:
        output: folder to write.
        adapters: folders of the adapters.

    Returns:
        Peak memory in bytes beyond that of the libraries, and seconds.
    """
    from sft_judge.cli import main

    sys.stdout = sys.stderr
    before, start = resident(), time.monotonic()
    new_peak()
    assert main(["merge", *map(str, adapters), "--output", str(output)]) == 0
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command's handler would print a traceback when the pool ends
    return peak() - before, time.monotonic() - start


def merged_whole(output: Path, adapter: Path) -> tuple[int, float]:
    """
    Merge an adapter in memory by PEFT.

    Args:
        output: folder to write.
        adapter: folder of the adapter.

    Returns:
        Peak memory in bytes beyond that of the libraries, and seconds.
    """
    from sft_judge.modeling.loading import load_model

    before, start = resident(), time.monotonic()
    new_peak()
    load_model(str(adapter)).merge_and_unload().save_pretrained(output)
    return peak() - before, time.monotonic() - start


CASES = {  # function and number of adapters
    "an adapter": (merged, 1),
    "the mean of two adapters": (merged, 2),
    "an adapter, whole in memory": (merged_whole, 1),
}


def main() -> None:
    names = chosen(__doc__, CASES)
    return_freed_memory()
    import sft_judge.conversion.merge
    import sft_judge.core.third_party  # noqa: F401

    results = []
    with tempfile.TemporaryDirectory() as folder:
        base, *adapters = (Path(folder) / name for name in ("base", "one", "two"))
        apart(make_base, base)
        for adapter in adapters:
            apart(make_adapter, base, adapter)
        sizes = [file.stat().st_size for file in base.glob("*.safetensors")]
        for name in names:
            function, count = CASES[name]
            with tempfile.TemporaryDirectory(dir=folder) as output:
                used, seconds = apart(function, Path(output) / "merged", *adapters[:count])
            print(f"  {name}: {used / 1e9:.2f} GB, {seconds:.0f} s", file=sys.stderr, flush=True)
            if function is merged:
                of = f"{max(sizes) / 1e9:.1f} of {sum(sizes) / 1e9:.1f} GB"
                what = f"peak memory of merging {name} over one file ({of})"
                results.append(over_rounds(what, lambda _, used=used: used / max(sizes), 1, "<= 2"))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
