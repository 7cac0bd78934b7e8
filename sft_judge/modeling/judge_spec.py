"""
judge.json, which makes a model folder a judge.

The file is beside the weights. Later stages take the prompt, the budget, the verdict words and the calibration only
from it, so that training and serving cannot differ.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import write_json
from sft_judge.core.model_files import JUDGE, describe_parts, name_of
from sft_judge.modeling.temperature_scaling import apply_calibration, check_calibration

FILE = JUDGE


@dataclass
class Budget:
    """
    Hold the maximum number of tokens of the prompt, of each response, and of the whole sequence with its verdict.
    """

    prompt: int = 2048
    response: int = 2048
    total: int = 6160


@dataclass
class JudgeSpec:
    """Hold the fields of judge.json. `verdict_ids[k]` is the token of `verdict_words[k]`, in the order of VERDICTS."""

    verdict_words: list[str]
    verdict_ids: list[int]
    template: str  # the text of the prompt template, not its name
    budget: Budget
    language: bool = False  # show the prompt's language
    swap: str = "both"  # orders to predict by default: both | none
    calibration: dict | None = None  # see temperature_scaling.py, with facts of the fit; None if uncalibrated
    frame: dict | None = None  # example prompt from when the judge was made: see prompts/identity.py
    parts: dict | None = None  # hashes of weights and tokenizer: see core.model_files.describe_parts
    base: dict | None = None  # base of an adapter: see core.model_files.describe_base
    training: dict = field(default_factory=dict)  # training data and settings, for provenance
    version: int = 1

    @property
    def num_verdicts(self) -> int:
        """Return K, 2 or 3."""
        return len(self.verdict_ids)

    def calibrate(self, probs: np.ndarray, languages: list | None = None) -> np.ndarray:
        """
        Apply this judge's calibration.

        Args:
            probs: raw probabilities, averaged over the orders [N, K].
            languages: language of each battle [N], or None.
        """
        return apply_calibration(probs, self.calibration, languages)


def read_spec(folder: Path) -> JudgeSpec:
    """Read judge.json of a model folder. Raise `InputError` if it is missing or invalid."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise InputError(
            f"{name_of(folder)}: it has no {FILE}, so it is not a judge. `sft-judge train` makes one; "
            "`sft-judge untrained MODEL --output DIR` makes one of a plain model without training."
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise InputError(f"{file}: got a JSON {type(fields).__name__}, expected an object. Copy the judge again.")
        unknown = set(fields) - set(JudgeSpec.__dataclass_fields__)
        if unknown:
            name = sorted(unknown)[0]
            raise InputError(f"{file}: unknown key {name!r}.{nearest(name, JudgeSpec.__dataclass_fields__)}")
        _check_types(file, fields)
        return JudgeSpec(**{**fields, "budget": Budget(**fields["budget"])})
    except InputError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a valid {FILE} ({error}). Train or merge the judge again.") from error


def _check_types(file: Path, fields: dict) -> None:
    """Raise `InputError` if a field has the wrong type."""
    frame, base = fields.get("frame"), fields.get("base")
    fits = {
        "verdict_words": _is_list(fields["verdict_words"], str),
        "verdict_ids": _is_list(fields["verdict_ids"], int),
        "template": isinstance(fields["template"], str),
        "training": isinstance(fields.get("training", {}), dict),
        "frame": frame is None or (isinstance(frame, dict) and {"text", "ids_sha256"} == set(frame)),
        "base": base is None or (isinstance(base, dict) and all(isinstance(value, str) for value in base.values())),
        "parts": isinstance(fields.get("parts", {}), dict | None),
        "swap": fields.get("swap", "both") in SWAPS,
        "version": fields.get("version", 1) == 1,
    }
    wrong = [name for name, is_right in fits.items() if not is_right]
    if wrong:
        value = str(fields[wrong[0]])[:40]
        raise InputError(f"{file}: {wrong[0]} is {value}, which is invalid. Copy, train or merge the judge again.")
    check_calibration(file, fields.get("calibration"))


def _is_list(value, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def write_spec(folder: Path, spec: JudgeSpec, bind: bool = False) -> None:
    """
    Write judge.json beside the weights.

    Args:
        folder: the judge's folder.
        spec: the contents.
        bind: store hashes of the weights and the tokenizer, which must already be in the folder.
    """
    write_json(Path(folder) / FILE, asdict(spec) | ({"parts": describe_parts(folder)} if bind else {}))
