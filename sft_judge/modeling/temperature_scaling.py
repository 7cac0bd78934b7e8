"""
Apply a calibration to probabilities. Exchanging the responses exchanges the result exactly, for any parameters.

A calibration is a dict as in judge.json: `temperature`; if ties have their own scaling, also `tie_temperature` and
`tie_offset`; and if languages differ significantly, `languages`, `{name: the same three}`.
"""

import numpy as np

from sft_judge.core.errors import InputError


def apply_scaling(
    probs: np.ndarray, temperature: float, tie_temperature: float | None = None, tie_offset: float = 0.0
) -> np.ndarray:
    """
    Divide log-probabilities by the temperature and normalise them (Guo et al. 2017, section 4.2). A zero stays zero.

    With `tie_temperature` this is vector scaling in which a and b share their parameters.

    Args:
        probs: probabilities [..., K].
        temperature: temperature, above 0.
        tie_temperature: temperature of a tie, or None for the same temperature.
        tie_offset: added to the logit of a tie.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probs, dtype=float)) / temperature
        if tie_temperature is not None:
            logits[..., 2] = np.log(np.asarray(probs, dtype=float)[..., 2]) / tie_temperature + tie_offset
    powered = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # The sum a + b is computed before the tie is added, so that exchanging a and b does not change the rounding.
    total = powered[..., 0] + powered[..., 1]
    total = total + powered[..., 2] if powered.shape[-1] == 3 else total
    return powered / total[..., None]


def apply_calibration(probs: np.ndarray, calibration: dict | None, languages=None) -> np.ndarray:
    """
    Apply a calibration to raw probabilities.

    Args:
        probs: raw probabilities [N, K].
        calibration: the calibration; None for no change.
        languages: language of each battle [N], or None.
    """
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
    """
    Raise `InputError` if a calibration is invalid; temperatures must be above zero.

    Args:
        where: beginning of the message.
        calibration: the calibration, or None.
    """
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
                raise InputError(f"{where}: its calibration has {seen}, expected numbers with temperatures above 0.")


def describe_calibration(calibration: dict) -> str:
    """Describe a calibration, as in `temperature 1.2, tie temperature 2.1, tie offset +0.3; its own for German`."""
    text = f"temperature {calibration['temperature']:.4g}"
    if "tie_temperature" in calibration:
        text += f", tie temperature {calibration['tie_temperature']:.4g}, tie offset {calibration['tie_offset']:+.4g}"
    own = calibration.get("languages")
    return text + (f"; its own for {', '.join(own)}" if own else "")


def _parameters(calibration: dict) -> dict:
    return {key: calibration[key] for key in ("temperature", "tie_temperature", "tie_offset") if key in calibration}
