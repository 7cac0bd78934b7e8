"""Adapters into their base, and judges of one base averaged."""

import json
from pathlib import Path

import numpy as np
import torch

from sft_judge.errors import InputError
from sft_judge.models import is_adapter, load_model, load_tokenizer
from sft_judge.spec import JudgeSpec, read_spec, write_spec


def merge_judges(models: list[str], weights: list[float] | None, output: Path) -> dict:
    """
    Write the merged judge to the folder `output`; returns facts for the manifest.

    `weights` are normalised to sum to one (equal by default). Averaged are whole weights: adapters as the products
    that they add, never their factors. The judges must agree on everything in judge.json that decides a prompt.
    """
    specs = [read_spec(model) for model in models]
    for model, spec in zip(models[1:], specs[1:], strict=True):
        _agree(models[0], specs[0], model, spec)
    shares = np.array(weights if weights else [1.0] * len(models))
    if len(shares) != len(models) or not (shares > 0).all():
        raise InputError(
            f"{len(shares)} weights {shares.tolist()} for {len(models)} models; give one above 0 for each."
        )
    shares = shares / shares.sum()
    merged = whole_model(models[0])
    if len(models) > 1:
        state = merged.state_dict()
        total = {name: value.double() * shares[0] for name, value in state.items()}
        for model, share in zip(models[1:], shares[1:], strict=True):
            for name, value in whole_model(model).state_dict().items():
                total[name] += value.double() * share
        merged.load_state_dict({name: value.to(state[name].dtype) for name, value in total.items()})
    merged.save_pretrained(output)
    load_tokenizer(models[0]).save_pretrained(output)
    spec = specs[0]
    spec.calibration = None  # fitted on other weights
    spec.training = {**spec.training, "merged_from": models, "weights": shares.tolist()}
    spec.training["folds_seen"] = sorted({fold for each in specs for fold in each.training.get("folds_seen", [])})
    write_spec(output, spec)
    return {"models": models, "weights": shares.tolist()}


def whole_model(model: str) -> torch.nn.Module:
    """The model with its adapter merged in."""
    loaded = load_model(model)
    return loaded.merge_and_unload() if is_adapter(model) else loaded


def _agree(first: str, one: JudgeSpec, second: str, other: JudgeSpec) -> None:
    for name in ("verdict_words", "verdict_ids", "template", "budget", "language"):
        if getattr(one, name) != getattr(other, name):
            raise InputError(f"{first} and {second} differ in {name!r} of judge.json; only like judges can be merged.")
    bases = [
        json.loads((Path(model) / "config.json").read_text()) for model in (first, second) if not is_adapter(model)
    ]
    if len(bases) == 2 and bases[0]["architectures"] != bases[1]["architectures"]:
        raise InputError(f"{first} is a {bases[0]['architectures'][0]}, {second} a {bases[1]['architectures'][0]}.")
