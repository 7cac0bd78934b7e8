"""
How a calibration acts on probabilities. Whatever is fitted, exchanging the responses exchanges the result to the bit.

A calibration is a dict as judge.json keeps it: `temperature`, where a tie is scaled by itself also `tie_temperature`
and `tie_offset`, and where languages differ beyond chance `languages`, `{name: the same three for it}`.
"""

import numpy as np

from sft_judge.core.errors import InputError


def apply_scaling(
    probs: np.ndarray, temperature: float, tie_temperature: float | None = None, tie_offset: float = 0.0
) -> np.ndarray:
    """
    Log-probabilities [..., K] over the temperature, normalised again (Guo et al. 2017, section 4.2). A zero stays one.

    With `tie_temperature` the tie has its own, and `tie_offset` is added to its logit: vector scaling in which a and b
    are tied to each other.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probs, dtype=float)) / temperature
        if tie_temperature is not None:
            logits[..., 2] = np.log(np.asarray(probs, dtype=float)[..., 2]) / tie_temperature + tie_offset
    powered = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # a and b are added before the tie, so that their exchange cannot change the rounding of the total
    total = powered[..., 0] + powered[..., 1]
    total = total + powered[..., 2] if powered.shape[-1] == 3 else total
    return powered / total[..., None]


def apply_calibration(probs: np.ndarray, calibration: dict | None, languages=None) -> np.ndarray:
    """Apply a calibration (None: nothing) to raw probabilities [N, K]; `languages` [N] of the battles, where known."""
    if calibration is None:
        return np.asarray(probs)
    scaled = apply_scaling(probs, **_parameters(calibration))
    if languages is not None:
        names = np.asarray(languages, dtype=object)
        for language, own in calibration.get("languages", {}).items():
            rows = names == language
            scaled[rows] = apply_scaling(probs[rows], **_parameters(own))
    return scaled


def check_calibration(where, calibration) -> None:
    """Raise `InputError`, beginning with `where`, for what is no calibration: temperatures are above zero."""
    if calibration is None:
        return
    parts = [calibration]
    if isinstance(calibration, dict) and isinstance(calibration.get("languages", {}), dict):
        parts += calibration.get("languages", {}).values()
    else:
        parts = [None]
    for part in parts:
        numbers = list(_parameters(part).items()) if isinstance(part, dict) and "temperature" in part else [("", None)]
        for name, value in numbers:
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
            if not is_number or (name != "tie_offset" and value <= 0):
                seen = f"{name} {value}" if name else str(part)[:40]
                raise InputError(f"{where}: its calibration has {seen}, expected numbers, temperatures above 0.")


def describe_calibration(calibration: dict) -> str:
    """`temperature 1.234, of ties 2.1 and 0.3; its own for German, French`."""
    text = f"temperature {calibration['temperature']:.4g}"
    if "tie_temperature" in calibration:
        text += f", of ties {calibration['tie_temperature']:.4g} and {calibration['tie_offset']:+.4g}"
    own = calibration.get("languages")
    return text + (f"; its own for {', '.join(own)}" if own else "")


def _parameters(calibration: dict) -> dict:
    return {key: calibration[key] for key in ("temperature", "tie_temperature", "tie_offset") if key in calibration}
