"""
Export a judge as a sequence-classification checkpoint, for servers that do not know judges.

The score layer holds K rows of the LM head, so its softmax gives the judge's probabilities exactly, if the model
family only scales the output of the head. A linear layer cannot represent a soft-cap, so such families are refused.
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
    Write a judge as a classifier.

    The labels are the verdicts in the order shown: `a` is the first answer. The probabilities are not calibrated.

    Args:
        model: the judge's folder.
        output: folder of the classifier.

    Returns:
        Facts for the manifest.

    Raises:
        InputError: the judge has no such form.
    """
    spec, tokenizer = read_spec(model), load_tokenizer(model)
    scale = _scale_of(model, tokenizer)
    causal = load_model(model)
    head = causal.get_output_embeddings()
    names = verdict_names(spec.num_verdicts)
    config = copy.deepcopy(causal.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    config.problem_type = "single_label_classification"  # softmax instead of a sigmoid for each label
    config.get_text_config().pad_token_id = tokenizer.pad_token_id  # used to find a row's last token
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
    """Return the factor of the score layer. Raise `InputError` if a judge cannot be exported."""
    if is_adapter(model):
        raise InputError(
            f"{model} is an adapter; a classifier needs merged weights: sft-judge merge {model} --output DIR."
        )
    config = load_config(model)
    if getattr(config, "quantization_config", None):
        raise InputError(f"{model} is quantised; export the judge it was made from.")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(f"{model}: transformers has no sequence-classification class for {config.model_type}.")
    scale = scale_after_head(config, tokenizer)
    if scale is None:
        raise InputError(
            f"{model}: {config.model_type} transforms its logits after the head (a soft-cap) or adds a bias, which a "
            "score layer cannot represent. Use the judge itself with `sft-judge predict` or `serve`."
        )
    return scale
