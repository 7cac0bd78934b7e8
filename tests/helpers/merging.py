"""What the tests of `merge` share: tiny models of each family, random adapters, and the comparison of files."""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sft_judge.cli import main
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES
from sft_judge.modeling.loading import load_model
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of


def tiny_model(family: str, dtype: torch.dtype = torch.bfloat16, **sizes):
    """A random model with the features of the family."""
    sizes = next((known.sizes for known in KNOWN_ARCHITECTURES.values() if known.model_type == family), {}) | sizes
    return AutoModelForCausalLM.from_config(
        shrink_config(AutoConfig.for_model(family, **sizes), tokenizer_of("llama3")), dtype=dtype
    )


def add_adapter(base, folder, seed=0, **settings):
    """A random adapter on the model in the folder `base`; every factor and magnitude is away from its start."""
    torch.manual_seed(seed)
    whole = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    model = get_peft_model(load_model(str(base)), LoraConfig(**whole))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "magnitude" in name or "modules_to_save" in name:
                weight.mul_(1 + torch.rand_like(weight))
    model.save_pretrained(folder)
    return folder


def stored(folder) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def differences(one, other) -> set[str]:
    """The names whose tensors are not the same to the bit."""
    one, other = stored(one), stored(other)
    return {name for name in one.keys() | other.keys() if not torch.equal(one[name], other[name])}


def judge_of(folder, judge):
    """The files that make `folder` a judge, as those of `judge`."""
    for file in judge.iterdir():
        if "model" not in file.name and file.name not in ("config.json", "generation_config.json"):
            shutil.copy(file, folder)
    return folder


def merge(*models, output, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return main(["merge", *map(str, models), "--output", str(output), *words])


def refuses(capsys, models, reason, tmp_path, **options):
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert merge(*models, output=tmp_path / "merged", **options) == 2
    error = capsys.readouterr().err
    assert reason in error and sum(line.startswith("sft-judge:") for line in error.splitlines()) == 1
    assert "Traceback" not in error and sorted(tmp_path.rglob("*")) == before


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def forget(file, *keys):
    """Remove keys of a JSON file."""
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in fields.items() if key not in keys}))
