"""Verdict probabilities from transformers: the reference that other engines are held to."""

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from sft_judge.models import is_classifier, load_model, load_tokenizer
from sft_judge.spec import JudgeSpec
from sft_judge.verdict_head import VerdictHead

TOKENS_A_BATCH = 8192


class TransformersEngine:
    """One forward a batch of similar lengths; a row's result does not depend on the batch beyond float rounding."""

    def __init__(self, model: str, spec: JudgeSpec, dtype: str = "auto", **options):
        self.tokenizer = load_tokenizer(model)
        classifier = is_classifier(model)
        if classifier:
            options["kind"] = AutoModelForSequenceClassification
        self.model = load_model(model, dtype, **options).to("cuda" if torch.cuda.is_available() else "cpu")
        self.head = None if classifier else VerdictHead(self.model, spec.verdict_ids)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        del self.model, self.head

    @torch.inference_mode()
    def score(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities [N, K] over the verdicts, in float64."""
        device = next(self.model.parameters()).device
        scored = [np.empty(0)] * len(prompts)
        for batch in _batches([len(prompt) for prompt in prompts]):
            lengths = torch.tensor([len(prompts[row]) for row in batch])
            ids = torch.full((len(batch), int(lengths.max())), self.tokenizer.pad_token_id)
            for place, row in enumerate(batch):
                ids[place, : lengths[place]] = torch.tensor(prompts[row])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
            if self.head is None:  # finds the last tokens by itself
                logits = self.model(**inputs, use_cache=False).logits
            else:
                logits = self.head(self.model, inputs, (lengths - 1).to(device)).logits
            for row, logp in zip(batch, torch.log_softmax(logits.double(), dim=-1).cpu().numpy(), strict=True):
                scored[row] = logp
        return np.stack(scored)


def _batches(lengths: list[int]) -> list[list[int]]:
    """Rows sorted by length, at most TOKENS_A_BATCH padded tokens together."""
    batches, batch = [], []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_A_BATCH:
            batches.append(batch)
            batch = []
        batch.append(row)
    return batches + [batch]
