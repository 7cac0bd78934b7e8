"""
Write the table "GPUs and memory by model size" into docs/results/benchmarks.md and README.md, from `--plan`.

    python scripts/plan_table.py

No weights are loaded: the planner runs one training step of each recipe on fake tensors. Memory is for rows as long as
the recipe's budget allows, which is the worst case. Hours are for BATTLES battles of TOKENS tokens, in the orders that
the recipe trains on. They are an estimate, from the planner's share of the GPU's published rate.
"""

from pathlib import Path

import numpy as np
from results import markdown, replaced

from sft_judge.pipelines.planning.training_cost import (
    GPUS,
    cost_of_run,
    describe_time,
    flops_of,
    hours,
    needed_memory,
    passes_of,
    views_of,
)
from sft_judge.training.recipes import read_recipe

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "results" / "benchmarks.md", ROOT / "README.md"
RECIPES = (
    "smollm2-135m/student-gpu",
    "gemma-3-270m/student-gpu",
    "qwen2.5-0.5b/student",
    "qwen2.5-3b/student",
    "qwen3-8b/student",
    "gemma-2-9b/student",
    "gemma-3-12b/student",
    "qwen2.5-14b/student",
    "mistral-small/student",
    "qwen2.5-72b/teacher",
)
BATTLES, TOKENS = 10_000, 1_500


def table_row(name: str) -> list[str]:
    """Return the cells of a recipe: model, parameters, method, tokens per row, memory, GPU, hours."""
    config, adapters = read_recipe(name, ["--output_dir", "unused"]).configs()
    run = cost_of_run(config, adapters, None, gpus=1)
    gpu = next(iter(run.gpus), None)
    method = "QLoRA, 4 bits" if adapters.load_in_4bit else "LoRA" if adapters.use_peft else "all weights"
    lengths = np.full(BATTLES * views_of(config), min(TOKENS, run.longest))
    flops = flops_of(run.cost, lengths, run.rows, run.longest) * passes_of(config) * config.num_train_epochs
    need = needed_memory(next(iter(run.parts.values())).peak)
    return [
        f"{adapters.model_name_or_path} (`{name}`)",
        f"{run.cost.parameters / 1e9:.2f} B",
        method,
        f"{run.rows} x {run.longest:,}",
        f"{need:.0f} GB",
        gpu or "none alone",
        "–" if gpu is None else describe_time(hours(flops, gpu)),
        describe_time(hours(flops, "H100")) if GPUS["H100"][0] >= need else "–",
    ]


def main() -> None:
    columns = [
        "model (recipe)",
        "parameters",
        "method",
        "rows x tokens",
        "memory",
        "smallest GPU",
        "time there",
        "on an H100",
    ]
    rows = {name: table_row(name) for name in RECIPES}
    of_qwen = [row for name, row in rows.items() if name.startswith("qwen")]  # the README shows one family
    for page, shown in ((PAGE, list(rows.values())), (README, of_qwen)):
        block = "\n".join([*markdown(columns, shown), ""])
        page.write_text(replaced(page.read_text(encoding="utf-8"), "plan", block)[0], encoding="utf-8")
    print(block)


if __name__ == "__main__":
    main()
