"""Adapters of every kind: they open in plain PEFT, merge to the same, and PiSSA starts as the base."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from helpers.training_runs import log_loss_of, losses, trained_models, weights
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.adapters import describe_adapter, question_tied_weights

unit, engine = pytest.mark.unit, pytest.mark.engine


@engine
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": "true"},
        {"use_rslora": "true"},
        {"lora_init": "pissa"},
        {"lora_target_modules": "qkv"},
        {"ema_decay": "0.9"},
    ],
    ids=lambda changes: next(iter(changes.values())) + next(iter(changes)),
)
def test_adapters_of_every_kind_open_in_plain_peft_and_merge_to_the_same(
    changes, train, bases, synthetic_table, tmp_path, capsys
):
    folder = train(max_steps=4, learning_rate=5e-3, lora_dropout=0.0, **changes)
    assert "LoRA r 4, alpha 32" in (said := capsys.readouterr().out) or "DoRA r 4, alpha 32" in said
    spec, base = read_spec(folder), load_model(str(bases["qwen2"]), "float32")
    rows = synthetic_table.slice(0, 6).to_pylist()
    prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
    ids = torch.tensor([shown[0][:60] for shown in prompt.encode(rows, ("ab",))])
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder)
        seen = adapted(input_ids=ids).logits
        whole = adapted.merge_and_unload()
        merged = whole(input_ids=ids).logits
    assert main(["merge", str(folder), "--output", str(tmp_path / "merged")]) == 0
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(weight, whole.get_parameter(name))
    torch.testing.assert_close(merged, seen, atol=1e-4, rtol=1e-4)
    assert (seen - untrained).abs().max() > 1e-3
    names = {name.split(".")[-3] for name in weights(folder) if "lora_A" in name}
    others = set() if "lora_target_modules" in changes else {"o_proj", "gate_proj", "up_proj", "down_proj"}
    assert names == {"q_proj", "k_proj", "v_proj"} | others


@engine
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_lora_rslora_and_dora_each_add_what_its_paper_says(kind, train, bases):
    """
    Merged weights by hand from the adapter's file: W + s BA, s alpha / r or, of rsLoRA, alpha / sqrt(r) (Kalajdzievski
    2023, https://arxiv.org/abs/2312.03732); of DoRA its rows at the lengths m (Liu et al. 2024, section 4,
    https://arxiv.org/abs/2402.09353).
    """
    switch = {} if kind == "lora" else {f"use_{kind}": "true"}
    folder = train(max_steps=2, learning_rate=0.02, lora_dropout=0.0, lora_r=9, lora_alpha=6, **switch)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == (kind == "rslora", kind == "dora")
    assert (config["r"], config["lora_alpha"]) == (9, 6)
    base, factors = load_model(str(bases["qwen2"]), "float32"), weights(folder)
    scale = 6 / 3 if kind == "rslora" else 6 / 9
    plain = {name: weight.clone() for name, weight in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    adapted = [name.removesuffix(".lora_A.weight") for name in factors if name.endswith("lora_A.weight")]
    magnitudes = {name for name in factors if "magnitude" in name}
    assert magnitudes == ({f"{name}.lora_magnitude_vector" for name in adapted} if kind == "dora" else set())
    for name in adapted:
        start = plain[f"{name.removeprefix('base_model.model.')}.weight"]
        whole = start + scale * factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
        if kind == "dora":
            lengths = factors[f"{name}.lora_magnitude_vector"]
            whole = whole * (lengths / whole.norm(dim=1))[:, None]
            assert (lengths - start.norm(dim=1)).abs().max() > 1e-3  # they are trained
        seen = merged.get_parameter(f"{name.removeprefix('base_model.model.')}.weight")
        torch.testing.assert_close(seen, whole, atol=1e-5, rtol=1e-4)
        assert (whole - start).abs().max() > 1e-3
    assert len(adapted) == 14


@engine
def test_a_recipe_names_what_is_adapted_or_trained_whole_and_how_the_base_is_loaded(train, bases, monkeypatch):
    models, start = trained_models(monkeypatch), load_model(str(bases["qwen2"]), "bfloat16").state_dict()
    adapter = {"lora_target_modules": ["q_proj", "down_proj"], "lora_modules_to_save": "input_layernorm"}
    more = {"lora_dropout": 0.25, "max_steps": 2}
    folder = train(dtype="bfloat16", attn_implementation="eager", learning_rate=0.1, **adapter, **more)
    [model], saved = models, weights(folder)
    assert {name.split(".")[-3] for name in saved if "lora_" in name} == {"q_proj", "down_proj"}
    assert {module.p for name, module in model.named_modules() if name.endswith("lora_dropout.default")} == {0.25}
    whole = {name.removeprefix("base_model.model."): weight for name, weight in saved.items() if "lora_" not in name}
    assert whole.keys() == {f"model.layers.{layer}.input_layernorm.weight" for layer in range(2)}
    assert not any(torch.equal(weight.float(), start[name].float()) for name, weight in whole.items())
    base = {name: weight for name, weight in model.get_base_model().state_dict().items() if "base_layer" in name}
    assert base and {weight.dtype for weight in base.values()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


@engine
def test_what_changes_the_base_starts_as_it_and_is_saved_as_what_it_learnt(train, synthetic_file):
    """W = residual + BA at the start, so the first loss is LoRA's, whose start adds nothing; later ones differ."""
    settings = {"lora_dropout": 0.0, "max_steps": 4, "learning_rate": 5e-3, "fold": 1, "eval_strategy": "steps"}
    seen = {"default": losses(train("plain", **settings, eval_steps=4))}
    for start, more in (("pissa", {}), ("pissa_niter_4", {"use_rslora": "true"}), ("olora", {})):
        folder = train(start, **settings, **more, eval_steps=4, lora_init=start)
        seen[start] = losses(folder)
        assert seen[start][0] == pytest.approx(seen["default"][0], abs=1e-5)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["init_lora_weights"]) == (8, True)  # of what was learnt and of the start, 4 each
        told = read_spec(folder).training["eval"]["eval_log_loss"]
        assert log_loss_of(folder, synthetic_file) == pytest.approx(told, abs=1e-4)
    last = sorted(each[3] for each in seen.values())
    assert min(high - low for low, high in zip(last, last[1:], strict=False)) > 1e-4


@engine
@pytest.mark.parametrize("start", ["default", "gaussian", "orthogonal"])
def test_an_adapter_starts_as_its_recipe_says_and_adds_nothing(start, train):
    """At a rate that moves nothing, what is saved is the start: A uniform, normal, or both factors orthogonal."""
    factors = weights(train(lora_init=start, lora_r=8, learning_rate=1e-30, lora_dropout=0.0, max_steps=1))
    for name, down in factors.items():
        if "lora_A" not in name:
            continue
        up, wide = factors[name.replace("lora_A", "lora_B")], down.shape[1]
        assert (up @ down).abs().max() < 1e-5 and (up.abs().max() > 1e-20) == (start == "orthogonal")
        if start == "default":  # Kaiming's, of torch's linear layers
            assert 0.95 * wide**-0.5 < down.abs().max() < 1.0001 * wide**-0.5
        elif start == "gaussian":
            assert down.std() == pytest.approx(1 / 8, rel=0.15) and down.abs().max() > 2 / 8
        else:
            assert down.any() and torch.linalg.matrix_rank(down) == 4


@pytest.mark.parametrize("use_rslora, said", [(False, "alpha / r 0.5;"), (True, "alpha / sqrt(r) 2;")])
def test_the_line_about_an_adapter_gives_the_factor_of_its_product(use_rslora, said):
    lora = LoraConfig(r=16, lora_alpha=8, use_rslora=use_rslora)
    assert said in describe_adapter(lora, torch.nn.Linear(2, 2))


@unit
@pytest.mark.parametrize(
    "settings, changed",
    [
        ({"target_modules": ["lm_head", "q_proj"]}, "the head of"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, "embeddings and the head of"),
        ({"target_modules": "all-linear"}, None),
    ],
)
def test_an_adapter_on_tied_weights_is_questioned(settings, changed, bases):
    base = load_model(str(bases["qwen2"]))
    assert base.config.tie_word_embeddings
    doubt = question_tied_weights(get_peft_model(base, LoraConfig(r=2, **settings)))
    assert (doubt is None) if changed is None else f"{changed} a base that ties" in doubt


@engine
def test_a_training_warns_of_tied_weights(train, capsys):
    train(max_steps=1, lora_modules_to_save="lm_head")
    assert "warning: The adapter changes the head of a base that ties" in capsys.readouterr().err
