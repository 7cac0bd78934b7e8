"""An adapter's base and a judge's hash: found wherever both were moved, and nothing else is taken for them."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from sft_judge.core import model_files
from sft_judge.core.errors import InputError
from sft_judge.core.files import content_hash
from sft_judge.core.model_files import base_of, describe_base, judge_hash, weights_hash

pytestmark = pytest.mark.unit


def make_base(folder, seed=0, shape=(64, 64)):
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    save_file({"weight": values}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "5.0"}))
    return folder


@pytest.fixture
def adapter(tmp_path):
    """A judge's adapter on a base, in a tree of their own."""
    base, folder = make_base(tmp_path / "tree" / "models" / "base"), tmp_path / "tree" / "runs" / "judge"
    folder.mkdir(parents=True)
    save_file({"lora_A": np.ones((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base.resolve())})
    )
    (folder / "judge.json").write_text(
        json.dumps({"base": describe_base(base, folder, weights_hash(base)), "calibration": None})
    )
    return folder


def test_a_base_is_found_where_it_was_and_where_both_were_moved(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert base_of(adapter) == str(tmp_path / "tree" / "models" / "base")
    shutil.copytree(tmp_path / "tree", tmp_path / "copy")
    shutil.rmtree(tmp_path / "tree")
    assert base_of(tmp_path / "copy" / "runs" / "judge") == str(tmp_path / "copy" / "models" / "base")


def test_another_base_in_its_place_is_refused_and_named(adapter, tmp_path):
    base = tmp_path / "tree" / "models" / "base"
    before = content_hash(adapter)
    shutil.rmtree(base)
    with pytest.raises(InputError, match="base model .* is missing"):
        base_of(adapter)
    make_base(base, seed=1)
    with pytest.raises(InputError, match="trained on another base than .*models/base"):
        base_of(adapter)
    assert content_hash(adapter) != before  # so that stages and unfinished work notice


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "peft_type is missing"),
        ("{}", "peft_type is missing"),
        ('{"peft_type": "LORA"}', "base_model_name_or_path is None"),
        ('{"peft_type": "LORA", "base_model_name_or_path": null}', "base_model_name_or_path is None"),
        ('{"peft_type": "LORA", "base_model_name_or_path": ""}', "base_model_name_or_path is ''"),
        ('{"peft_type": "LORA", "base_model_name_or_path": 7}', "base_model_name_or_path is 7"),
    ],
)
def test_a_damaged_adapter_config_is_one_line_that_names_the_file(adapter, text, said):
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=said) as refusal:
        base_of(adapter)
    assert str(adapter / "adapter_config.json") in str(refusal.value)


def test_pickled_adapters_are_refused_by_the_file_that_is_missing(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="adapter_model.safetensors: adapter_model.bin is pickled"):
        base_of(adapter)


def test_a_hub_id_stays_one(adapter):
    fields = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "revision": "abc"}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    (adapter / "judge.json").write_text("{}")
    assert base_of(adapter) == "Qwen/Qwen2.5-0.5B"
    assert model_files.revision_of(adapter) == "abc"


def test_the_hash_of_weights_sees_a_change_in_any_piece_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "WHOLE_BYTES", 2**16)
    monkeypatch.setattr(model_files, "SAMPLE_BYTES", 2**10)
    one, same = (make_base(tmp_path / name, shape=(512, 512)) for name in ("one", "same"))
    assert weights_hash(one) == weights_hash(same)
    assert weights_hash(make_base(tmp_path / "other", seed=1, shape=(512, 512))) != weights_hash(one)
    assert weights_hash(make_base(tmp_path / "shaped", shape=(512, 513))) != weights_hash(one)
    (same / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "5.1"}))
    assert weights_hash(same) == weights_hash(one)
    (same / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 2}))
    assert weights_hash(same) != weights_hash(one)


def test_a_judges_hash_leaves_out_its_calibration_and_its_place_and_nothing_else(adapter, tmp_path):
    before = judge_hash(adapter)
    shutil.copytree(tmp_path / "tree", tmp_path / "copy")
    copy = tmp_path / "copy" / "runs" / "judge"
    fields = json.loads((copy / "judge.json").read_text())
    (copy / "judge.json").write_text(json.dumps(fields | {"calibration": {"temperature": 2}}))
    settings = json.loads((copy / "adapter_config.json").read_text())
    moved = settings | {"base_model_name_or_path": str(tmp_path / "copy" / "models" / "base")}
    (copy / "adapter_config.json").write_text(json.dumps(moved))
    assert judge_hash(copy) == before
    (copy / "README.md").write_text("a card")
    assert judge_hash(copy) == before
    for name, text in (
        ("judge.json", json.dumps(fields | {"template": "x"})),
        ("adapter_config.json", json.dumps(moved | {"r": 9})),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "x"),
    ):
        old = (copy / name).read_text() if (copy / name).is_file() else None
        (copy / name).write_text(text)
        assert judge_hash(copy) != before, name
        (copy / name).unlink() if old is None else (copy / name).write_text(old)
    save_file({"lora_A": np.zeros((2, 2), np.float32)}, copy / "adapter_model.safetensors")
    assert judge_hash(copy) != before


def test_logs_of_tensorboard_are_no_part_of_what_a_folder_is(adapter):
    before = content_hash(adapter)
    (adapter / "runs" / "one").mkdir(parents=True)
    (adapter / "runs" / "one" / "events.out.tfevents.1").write_bytes(b"x")
    assert content_hash(adapter) == before
    (adapter / "runs" / "one" / "other").write_bytes(b"x")
    assert content_hash(adapter) != before
