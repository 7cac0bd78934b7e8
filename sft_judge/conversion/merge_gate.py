"""
Compare an adapter with its merged form, on given battles or on synthetic ones.

A merge should not change a judge, so any battles can show a change; they need no labels.
"""

import logging
from pathlib import Path

from sft_judge.data.battles import read_battles
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings
from sft_judge.inference.engines.transformers_engine import default_device, free_memory
from sft_judge.inference.verify import verify_merged

logger = logging.getLogger(__name__)

# Synthetic battles are unlike those of training, and show rounding more: SmolLM2 merged in bfloat16 differs by 0.06,
# an adapter merged into the wrong half of tied weights by 0.28.
ROUNDING = 0.1
HEADROOM = 1.25  # of the weights, for activations


def check_merged(model: str, merged: Path, battles: Path | None, num_rows: int, onto: str) -> dict | None:
    """
    Compare a judge with its merged form.

    Args:
        model: folder of the judge, usually an adapter.
        merged: folder of the merged judge.
        battles: battles file; None for synthetic battles. A model that does not fit into memory is compared on given
            battles only.
        num_rows: number of battles.
        onto: see `merge_judges`.

    Returns:
        Facts for the manifest; None if the model does not fit into memory.

    Raises:
        GateError: the probabilities differ by more than the tolerance.
    """
    if battles:
        return verify_merged(model, merged, read_battles(battles, num_rows).to_pylist(), onto)
    device = default_device()
    need, free = HEADROOM * sum(file.stat().st_size for file in merged.glob("*.safetensors")), free_memory(device)
    if need > free:
        logger.warning(
            f"{model} is not compared with its merged form: that needs {need / 1e9:.0f} GB of memory, and "
            f"{free / 1e9:.0f} GB are free. On a larger machine: sft-judge merge with --battles."
        )
        return None
    settings = preset_settings("easy", rows=num_rows, test_rows=1, shifted_rows=1)
    return verify_merged(model, merged, generate_split(settings, "train").rows, onto, ROUNDING)
