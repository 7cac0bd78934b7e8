"""
judge.json: what makes a model folder a judge.

It stands beside the weights and is the only place from which a later stage takes the prompt, the budget, the verdict
words or the calibration, so training and serving cannot differ.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from sft_judge.errors import InputError, nearest
from sft_judge.files import write_json

FILE = "judge.json"


@dataclass
class Budget:
    """Tokens allowed: for the prompt, for each response, and for the whole sequence with its verdict."""

    prompt: int = 2048
    response: int = 2048
    total: int = 6160


@dataclass
class JudgeSpec:
    """The fields of judge.json. `verdict_ids[k]` is the one token of `verdict_words[k]`, in the order of VERDICTS."""

    verdict_words: list[str]
    verdict_ids: list[int]
    template: str  # the text of the prompt template, not its name
    budget: Budget
    language: bool = False  # whether the prompt's language is shown
    swap: str = "both"  # orders that prediction runs by default: both | none
    calibration: dict | None = None  # {"temperature", "fitted_on", ...}; None: raw probabilities
    training: dict = field(default_factory=dict)  # what it was trained on and how, for people and for provenance
    version: int = 1

    @property
    def num_verdicts(self) -> int:
        """K, 2 or 3."""
        return len(self.verdict_ids)

    def calibrate(self, probs: np.ndarray) -> np.ndarray:
        """Apply this judge's calibration to raw probabilities [N, 3] or [N, K] of averaged orders."""
        return apply_temperature(probs, self.calibration["temperature"]) if self.calibration else np.asarray(probs)


def apply_temperature(probs: np.ndarray, temperature: float) -> np.ndarray:
    """
    p ** (1 / temperature), normalised over the last axis (Guo et al. 2017, section 4.2). A zero stays a zero.

    Symmetric in the columns, so exchanging the responses of a battle still exchanges the result.
    """
    probs = np.asarray(probs, dtype=float)
    powered = (probs / probs.max(axis=-1, keepdims=True)) ** (1.0 / temperature)
    # a and b are added before the tie, so that their exchange cannot change the rounding of the total
    total = powered[..., 0] + powered[..., 1]
    total = total + powered[..., 2] if powered.shape[-1] == 3 else total
    return powered / total[..., None]


def read_spec(folder: Path) -> JudgeSpec:
    """Read judge.json of a model folder. Raises `InputError` where there is none or it is not one of ours."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise InputError(
            f"{folder}: no {FILE} in it, so it is not a judge. `sft-judge train` and `merge` make one; a plain model "
            "needs training first."
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        unknown = set(fields) - set(JudgeSpec.__dataclass_fields__)
        if unknown:
            name = sorted(unknown)[0]
            raise InputError(f"{file}: unknown key {name!r}.{nearest(name, JudgeSpec.__dataclass_fields__)}")
        return JudgeSpec(**{**fields, "budget": Budget(**fields["budget"])})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a valid {FILE} ({error}). Train or merge the judge again.") from error


def write_spec(folder: Path, spec: JudgeSpec) -> None:
    """Write judge.json beside the weights."""
    write_json(Path(folder) / FILE, asdict(spec))
