"""
A judge as a sequence-classification checkpoint, for servers that know nothing of judges.

The score layer is K rows of the head, so its softmax is the judge's own: exactly, where the family does nothing to the
head's output but scale it. A soft-cap cannot be had in a linear layer and is refused.
"""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import is_adapter
from sft_judge.core.verdicts import verdict_names
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_config, load_model, load_tokenizer
from sft_judge.modeling.logit_scale import scale_after_head


def export_judge(model: str, output: Path) -> dict:
    """
    Write the judge in the folder `model` as a classifier to `output`; returns facts for the manifest.

    Its labels are the verdicts of the order shown: `a` is the answer that stands first. Its probabilities are raw.
    """
    spec, tokenizer = read_spec(model), load_tokenizer(model)
    scale = _scale_of(model, tokenizer)
    causal = load_model(model)
    head = causal.get_output_embeddings()
    names = verdict_names(spec.num_verdicts)
    config = copy.deepcopy(causal.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    config.problem_type = "single_label_classification"  # softmax, and not a sigmoid for each
    config.get_text_config().pad_token_id = tokenizer.pad_token_id  # by which a row's last token is found
    config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config, dtype=causal.dtype)
    setattr(classifier, classifier.base_model_prefix, causal.base_model)
    score = (head.weight[spec.verdict_ids].float() * scale).to(head.weight.dtype)
    classifier.score.weight = torch.nn.Parameter(score.detach())
    classifier.save_pretrained(output)
    tokenizer.save_pretrained(output)
    write_spec(output, spec, bind=True)
    return {"architecture": type(classifier).__name__, "labels": names, "scale": scale}


def _scale_of(model: str, tokenizer) -> float:
    """What the score layer is multiplied by; raises `InputError` for a judge that has no such form."""
    if is_adapter(model):
        raise InputError(f"{model} is an adapter; a classifier takes whole weights: sft-judge merge {model}.")
    config = load_config(model)
    if getattr(config, "quantization_config", None):
        raise InputError(f"{model} is quantised; export the judge that it was made of.")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(f"{model}: transformers has no sequence-classification form of {config.model_type}.")
    scale = scale_after_head(config, tokenizer)
    if scale is None:
        raise InputError(
            f"{model}: {config.model_type} bends its logits after the head (a soft-cap) or adds a bias, and a score "
            "layer would lose that. Serve the judge itself: `sft-judge predict` and `serve` read it as it is."
        )
    return scale
