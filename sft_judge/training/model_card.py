"""README.md of a judge's folder, as the hub shows it: what it is, what it measures, what it was trained on."""

from collections import Counter
from importlib.resources import files
from pathlib import Path

import jinja2
from huggingface_hub import ModelCardData

from sft_judge.core.model_files import ADAPTER
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.training.config import JudgeConfig

FIGURES = {"log_loss": "log loss, nats", "accuracy": "accuracy", "swap_agreement": "agreement under swap"}
PHRASE = {2: "A or B", 3: "A, B or neither"}


def write_card(folder: Path, name: str, spec: JudgeSpec, config: JudgeConfig, sources: list[str | None]) -> None:
    """Write the card of a judge trained as `spec.training` says; `sources` [N] are those of its battles."""
    training = spec.training
    adapter = (folder / ADAPTER).is_file()
    metadata = ModelCardData(
        base_model=None if Path(training["base"]).exists() else training["base"],  # the hub knows no local path
        library_name="peft" if adapter else "transformers",
        license=config.data_license,
        pipeline_tag="text-classification",
        tags=["judge", "preference", "trl", "sft_judge"],
    )
    counted = Counter(str(source) for source in sources if source)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = files("sft_judge.training").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        metadata=metadata.to_yaml(),
        name=name,
        base=training["base"],
        verdicts=PHRASE[spec.num_verdicts],
        table=_table(training["eval"]),
        held_out=f"fold {config.fold}",
        license=config.data_license or "not stated (data_license in the recipe)",
        sources=[(_cell(source), count) for source, count in sorted(counted.items())],
        allow_in_sample=bool(config.labels) and config.allow_in_sample,
        external_teacher=bool(config.labels) and config.external_teacher,
        **{key: training[key] for key in ("rows", "unlabelled", "steps", "status")},
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _table(figures: dict) -> list[tuple[str, str, str]]:
    rows = []
    for name, label in FIGURES.items():
        if f"eval_{name}" in figures:
            ends = [figures.get(f"eval_{name}_{end}") for end in ("low", "high")]
            interval = "" if None in ends else f"[{ends[0]:.4f}, {ends[1]:.4f}]"
            rows.append((label, f"{figures[f'eval_{name}']:.4f}", interval))
    return rows


def _cell(text: str) -> str:
    """Text of a file as a cell of a table: no markup, one line."""
    return "".join(letter if letter.isalnum() or letter in " -_./" else " " for letter in text)[:80]
