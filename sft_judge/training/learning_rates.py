"""
Learning rates that are known to work, to question an unusual one before it costs hours.

The ranges are from the winners' write-ups and configurations: WSDM Cup 3rd place (Qwen2.5-14B 7e-5 to 12e-5, collapsed
at 14e-5; Phi-4 up to 14e-5; 72B teachers 5e-5; a 3B student 9e-5, all LoRA), LMSYS 1st place (Gemma-2-9B, LoRA 5e-5)
and LMSYS 2nd place (all parameters, 2.5e-6).
"""

from dataclasses import dataclass

TOLERATED_FACTOR = 3.0  # a rate may be outside the known range by this factor
SMALL_MODEL_PARAMETERS = 2e8  # smaller models are not questioned: they need other rates, and a try costs little


@dataclass(frozen=True)
class Range:
    """
    Hold the learning rates that are known to work for one kind of training.

    Attributes:
        least: number of parameters of the smallest model that the range is for.
        low: lowest rate.
        high: highest rate.
        source: who reports the rates.
        questioned: rate from which a training is questioned; by default TOLERATED_FACTOR times `high`.
    """

    least: float
    low: float
    high: float
    source: str
    questioned: float | None = None


LORA = (
    Range(3e10, 2e-5, 2e-4, "70B-class teachers of the WSDM Cup 3rd place"),
    Range(1e10, 3e-5, 1.2e-4, "Qwen2.5-14B of the WSDM Cup 3rd place, which collapsed at 1.4e-4", 1.4e-4),
    Range(SMALL_MODEL_PARAMETERS, 3e-5, 1.4e-4, "Qwen2.5-3B and Gemma-2-9B of the WSDM Cup and LMSYS winners"),
)
FULL = (Range(SMALL_MODEL_PARAMETERS, 1e-6, 2e-5, "Gemma-2-9B and 27B of the LMSYS 2nd place"),)


def question_learning_rate(rate: float, parameters: int, adapter: bool) -> str | None:
    """
    Return a warning if a peak learning rate is unusual, else None.

    Args:
        rate: the peak learning rate.
        parameters: number of parameters of the model.
        adapter: True if a LoRA adapter is trained, False if all parameters are.
    """
    usual = next((usual for usual in (LORA if adapter else FULL) if parameters >= usual.least), None)
    if usual is None:
        return None
    questioned = usual.questioned or usual.high * TOLERATED_FACTOR
    if usual.low / TOLERATED_FACTOR <= rate < questioned:
        return None
    kind = "adapters" if adapter else "all parameters"
    return (
        f"learning_rate {rate:g} is far from the rates known to work for {kind} of a model of this size: "
        f"{usual.low:g} to {usual.high:g} ({usual.source}). With too high a rate a training can collapse after hours."
    )
