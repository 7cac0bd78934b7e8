"""Write the model card (README.md) of a judge: what it is, its metrics, and its training data."""

from collections import Counter
from importlib.resources import files
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from sft_judge.core.model_files import is_adapter, is_local
from sft_judge.modeling.hub_card import CARD, snippet
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import is_classifier
from sft_judge.modeling.temperature_scaling import describe_calibration
from sft_judge.training.config import JudgeConfig

FIGURES = {"log_loss": "log loss, nats", "accuracy": "accuracy", "swap_agreement": "agreement under swap"}
PHRASE = {2: "A or B", 3: "A, B or neither"}


def write_card(folder: Path, name: str, spec: JudgeSpec, config: JudgeConfig, sources: list[str | None]) -> None:
    """
    Write the model card of a judge that has just been trained.

    Args:
        folder: the judge's folder.
        name: title of the card.
        spec: contents of judge.json; `spec.training` describes the training.
        config: settings of the training.
        sources: source of each training battle [N].
    """
    counted = Counter(str(source) for source in sources if source)
    text = _render(
        folder,
        name,
        spec,
        "text-generation",  # a causal LM; with another tag `pipeline` would initialise a head at random
        data_license=config.data_license,
        fold=config.fold,
        sources=[(_cell(source), count) for source, count in sorted(counted.items())],
        allow_in_sample=bool(config.labels) and config.allow_in_sample,
        external_teacher=bool(config.labels) and config.external_teacher,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def card_of(folder: Path, name: str, spec: JudgeSpec) -> str:
    """
    Return the card of a judge without one, such as a merged judge, from its judge.json alone.

    Args:
        folder: the judge's folder.
        name: title of the card.
        spec: contents of judge.json.
    """
    recipe = spec.training.get("recipe") or {}
    tag = "text-classification" if is_classifier(str(folder)) else "text-generation"
    return _render(folder, name, spec, tag, recipe.get("data_license"), recipe.get("fold"))


def _render(
    folder: Path, name: str, spec: JudgeSpec, tag: str, data_license: str | None, fold: int | None, **facts
) -> str:
    training, merged = spec.training, len(spec.training.get("merged_from", []))
    base = training.get("base")
    is_on_hub = base is not None and not is_local(base)
    held_out = "the battles held out of training" if fold is None else f"fold {fold}"
    measured = merged < 2 and not training.get("quantized")  # otherwise the metrics belong to other weights
    figures = training.get("eval", {}) if measured else {}
    results = _eval_results(figures, held_out, spec.num_verdicts)
    metadata = ModelCardData(
        base_model=base if is_on_hub else None,  # the Hub cannot resolve a local path
        library_name="peft" if is_adapter(folder) else "transformers",
        license=data_license,
        **({"model_name": name, "eval_results": results} if results else {}),
        pipeline_tag=tag,
        tags=["judge", "preference", "trl", "sft_judge"],
    )
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = files("sft_judge.training").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        metadata=metadata.to_yaml(),
        name=name,
        snippet=snippet(name),
        base=base if is_on_hub or base is None else Path(base).name,  # without the local path
        verdicts=PHRASE[spec.num_verdicts],
        calibration=describe_calibration(spec.calibration) if spec.calibration else None,
        table=_table(figures),
        held_out=held_out,
        license=data_license or "not stated (data_license in the recipe)",
        merged=merged,
        quantized=(training.get("quantized") or {}).get("scheme"),
        **{key: training.get(key) for key in ("rows", "unlabelled", "steps", "status")},
        **facts,
    )


def _table(figures: dict) -> list[tuple[str, str, str]]:
    rows = []
    for name, label in FIGURES.items():
        if f"eval_{name}" in figures:
            ends = [figures.get(f"eval_{name}_{end}") for end in ("low", "high")]
            interval = "" if None in ends else f"[{ends[0]:.4f}, {ends[1]:.4f}]"
            rows.append((label, f"{figures[f'eval_{name}']:.4f}", interval))
    return rows


def _eval_results(figures: dict, held_out: str, num_verdicts: int) -> list[EvalResult]:
    """Return the metrics of the table for the card's model-index."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"preference between two answers, {num_verdicts} verdicts",
            dataset_type="battles",
            dataset_name=held_out,
            metric_type=name,
            metric_name=label,
            metric_value=figures[f"eval_{name}"],
        )
        for name, label in FIGURES.items()
        if f"eval_{name}" in figures
    ]


def _cell(text: str) -> str:
    """Escape text from a file for a table cell: one line without markup, at most 80 characters."""
    return "".join(letter if letter.isalnum() or letter in " -_./" else " " for letter in text)[:80]
