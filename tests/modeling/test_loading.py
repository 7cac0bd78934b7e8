"""Bad model folders: one clear line and status 2, whatever is wrong in them."""

import json
import shutil

import pytest
import torch

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.modeling.tiny_tokenizers import tokenizer_of

pytestmark = pytest.mark.unit


def cut_short(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def missing(folder):
    shutil.rmtree(folder)


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    cut_short(folder / "config.json")


def unknown_architecture(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2000"}))


def truncated_weights(folder):
    cut_short(folder / "model.safetensors")


def garbage_weights(folder):
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 50)


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled_weights_only(folder):
    no_weights(folder)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def other_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


BAD_WEIGHTS = [
    missing,
    no_config,
    broken_config,
    unknown_architecture,
    truncated_weights,
    garbage_weights,
    no_weights,
    pickled_weights_only,
    other_shapes,
]


@pytest.fixture
def folder(bases, tmp_path):
    return shutil.copytree(bases["qwen2"], tmp_path / "model")


@pytest.mark.parametrize("damage", BAD_WEIGHTS)
def test_a_bad_model_folder_is_an_input_error_that_names_it(damage, folder):
    damage(folder)
    with pytest.raises(InputError, match=str(folder)):
        load_model(str(folder))


def broken_tokenizer(folder):
    cut_short(folder / "tokenizer.json")


def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("damage", [missing, no_config, broken_tokenizer, no_tokenizer])
def test_a_folder_without_a_good_tokenizer_is_an_input_error_that_names_it(damage, folder):
    damage(folder)
    with pytest.raises(InputError, match=str(folder)):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("damage", [missing, no_config, truncated_weights, pickled_weights_only, broken_tokenizer])
def test_training_from_a_bad_folder_is_one_line_and_leaves_nothing(damage, folder, synthetic_file, tmp_path, capsys):
    damage(folder)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("total_budget: 512\nnum_train_epochs: 1\n")
    capsys.readouterr()
    words = ["--model_name_or_path", folder, "--battles", synthetic_file, "--output_dir", tmp_path / "judge"]
    assert main(["train", "--config", str(recipe), *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert sum(line.startswith("sft-judge:") for line in error.splitlines()) == 1 and "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "model"}


@pytest.mark.parametrize("what", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_bad_adapter_is_an_input_error_that_names_it(what, bases, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "adapter"
    model = load_model(str(bases["qwen2"]))
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(folder)
    load_model(str(folder))
    cut_short(folder / what)
    with pytest.raises(InputError, match=str(folder)):
        load_model(str(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=str(folder)):
        load_model(str(folder))


def test_an_adapter_whose_base_is_gone_says_which(bases, tmp_path):
    from peft import LoraConfig, get_peft_model

    moved = shutil.copytree(bases["qwen2"], tmp_path / "base")
    model = get_peft_model(load_model(str(moved)), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    shutil.rmtree(moved)
    with pytest.raises(InputError, match=str(moved)):
        load_model(str(tmp_path / "adapter"))


def test_gemma2_soft_caps_its_attention(bases, tmp_path):
    folder = shutil.copytree(bases["gemma2"], tmp_path / "gemma2")
    ids = torch.arange(10, 60)[None]
    logits = {}
    for cap in (1e-3, 50.0):
        config = json.loads((folder / "config.json").read_text()) | {"attn_logit_softcapping": cap}
        (folder / "config.json").write_text(json.dumps(config))
        with torch.no_grad():
            logits[cap] = load_model(str(folder), "float32")(input_ids=ids).logits
    assert (logits[1e-3] - logits[50.0]).abs().max() > 0
    with pytest.raises(InputError, match="sdpa omits"):
        load_model(str(folder), attn_implementation="sdpa")


def test_a_tokenizer_json_is_read_though_mistrals_own_file_stands_beside_it(tmp_path):
    """As in every folder of Mistral's; transformers would have mistral-common read the other one."""
    tokenizer_of("mistral").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    (tmp_path / "tekken.json").write_text("{}")
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.is_fast and len(tokenizer) == len(tokenizer_of("mistral"))
