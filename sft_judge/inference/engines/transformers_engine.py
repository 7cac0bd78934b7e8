"""Verdict probabilities from transformers, the reference with which other engines are compared."""

import logging
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoModelForSequenceClassification

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.model_files import base_of
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import is_classifier, load_config, load_model, load_tokenizer
from sft_judge.modeling.verdict_head import VerdictHead

logger = logging.getLogger(__name__)

TOKENS_A_BATCH = 8192  # padded tokens per batch


class TransformersEngine:
    """Score rows in batches of similar length. A row's result depends on the batch only by float rounding."""

    def __init__(
        self,
        model: str,
        spec: JudgeSpec,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | None = None,
        **options,
    ):
        """
        Load a judge.

        Args:
            model: its folder.
            spec: its judge.json.
            dtype: of DTYPES.
            device: torch device; by default a GPU if there is one.
            batch_size: maximum number of rows in a batch; by default as many as fit into TOKENS_A_BATCH.
            options: options of `load_model`.
        """
        device, self.rows_a_batch = _device(device), _check_batch_size(batch_size)
        self.tokenizer = load_tokenizer(model)
        classifier = is_classifier(model)
        if classifier:
            options["kind"] = AutoModelForSequenceClassification
        self.model = load_model(model, dtype, **options).to(device)
        if self.model.device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
            _convert_to_float32(self.model)
        self.head = None if classifier else VerdictHead(self.model, spec.verdict_ids, in_float32=True)
        self.name, self.tokens_a_batch = model, TOKENS_A_BATCH
        self._spec, self._options = spec, options
        self._exact: TransformersEngine | None = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        del self.model, self.head, self._exact

    def in_float32(self) -> "TransformersEngine | None":
        """Return this judge in float32; None if it is in float32 or quantised, or if memory is too small."""
        if self._exact is None and self.model.dtype != torch.float32 and "quantization_config" not in self._options:
            self._exact = open_in_float32(self.name, self._spec, self.model.device)
        return self._exact

    @torch.inference_mode()
    def score(self, prompts: list[list[int]], fresh: bool = False) -> np.ndarray:
        """
        Compute log-probabilities over the verdicts.

        If memory runs out, the batch size is halved for the rest of the engine's life.

        Args:
            prompts: token ids of each row.
            fresh: as for vLLM; nothing is kept between calls here.

        Returns:
            Log-probabilities [N, K] in float64.

        Raises:
            InputError: a single row does not fit into memory.
        """
        scored = [np.empty(0)] * len(prompts)
        waiting = _batches([len(prompt) for prompt in prompts], self.tokens_a_batch, self.rows_a_batch)[::-1]
        while waiting:
            batch = waiting.pop()
            try:
                logp = self._forward([prompts[row] for row in batch])
            except torch.OutOfMemoryError as error:
                self._halve(len(batch), len(prompts[batch[0]]), error)
            else:
                for row, values in zip(batch, logp, strict=True):
                    scored[row] = values
                continue
            torch.cuda.empty_cache()  # outside the handler, because its traceback keeps the tensors alive
            rows = sorted(row for rows in (batch, *waiting) for row in rows)
            shorter = _batches([len(prompts[row]) for row in rows], self.tokens_a_batch, self.rows_a_batch)
            waiting = [[rows[place] for place in places] for places in shorter][::-1]
        return np.stack(scored)

    def _forward(self, prompts: list[list[int]]) -> np.ndarray:
        """Compute log-probabilities [N, K] of one padded batch."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.full((len(prompts), int(lengths.max())), self.tokenizer.pad_token_id)
        for place, prompt in enumerate(prompts):
            ids[place, : lengths[place]] = torch.tensor(prompt)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
        if self.head is None:  # a classifier finds the last tokens itself
            logits = self.model(**inputs, use_cache=False).logits
        else:
            logits = self.head(self.model, inputs, (lengths - 1).to(device)).logits
        return torch.log_softmax(logits.double(), dim=-1).cpu().numpy()

    def _halve(self, num_rows: int, longest: int, error: torch.OutOfMemoryError) -> None:
        if num_rows == 1:
            raise InputError(
                f"{self.name}: out of memory with one battle of {longest} tokens ({one_line(error)}). Use "
                "fewer bits (sft-judge quantize, --dtype bfloat16), --engine vllm or a larger GPU, or train the judge "
                "with a smaller total_budget."
            ) from error
        self.tokens_a_batch = num_rows * longest // 2
        logger.warning(f"out of memory: using batches of {self.tokens_a_batch} tokens from now on")


def open_in_float32(model: str, spec: JudgeSpec, device: torch.device) -> TransformersEngine | None:
    """
    Open a judge in float32 for a few rows, on a device or, if its memory is too small, on the CPU.

    Args:
        model: the judge's folder.
        spec: its judge.json.
        device: device to try first.

    Returns:
        The engine; None if the judge is quantised or memory is too small.
    """
    if getattr(load_config(model), "quantization_config", None):
        return None
    # files in half precision double in float32; a quarter more for activations
    need = 2.5 * sum(file.stat().st_size for file in Path(base_of(model)).glob("*.safetensors"))
    for place in dict.fromkeys((device, torch.device("cpu"))):
        if free_memory(place) > need:
            return TransformersEngine(model, spec, "float32", str(place))
    logger.warning(f"{model}: {need / 1e9:.0f} GB are not free, so no row is scored again in float32")
    return None


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def default_device() -> torch.device:
    """Return the device on which an engine runs by default: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _convert_to_float32(model) -> None:
    """
    Convert auto-round's layers to float32 where the CPU emulates half precision. The weights keep their values.

    A product in bfloat16 is much slower on such a CPU. `torch.nn.Module.float` is called directly because transformers
    refuses `.float()` of a quantised model: other kernels need half precision, but the CPU kernels multiply in the
    precision of their input.
    """
    if any(hasattr(module, "qweight") for module in model.modules()):
        torch.nn.Module.float(model)


def _device(name: str | None) -> torch.device:
    """Return the device of that name, by default a GPU if there is one. Raise `InputError` if it does not exist."""
    try:
        device = torch.device(name) if name else default_device()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises these for unknown names and missing devices
        raise InputError(f"device is {name!r}, which is not available here ({one_line(error)}).") from error
    return device


def _check_batch_size(batch_size: int | None) -> int | None:
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"batch_size is {batch_size!r}, expected an integer of at least 1.")
    return batch_size


def _batches(lengths: list[int], tokens: int, most: int | None = None) -> list[list[int]]:
    """
    Group rows of similar length into batches.

    Args:
        lengths: number of tokens of each row.
        tokens: maximum number of padded tokens in a batch.
        most: maximum number of rows in a batch.
    """
    batches, batch = [], []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and ((len(batch) + 1) * lengths[batch[0]] > tokens or len(batch) == most):
            batches.append(batch)
            batch = []
        batch.append(row)
    return batches + [batch]
