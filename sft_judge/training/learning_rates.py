"""
Learning rates that are known to work, so that one far from them is questioned before it costs hours.

From the winners' write-ups and configurations: WSDM Cup 3rd place (Qwen2.5-14B 7e-5 to 12e-5, collapsed at 14e-5;
Phi-4 up to 14e-5; 72B teachers 5e-5; a 3B student 9e-5, all LoRA), LMSYS 1st (Gemma-2-9B, LoRA 5e-5) and 2nd place
(all parameters, 2.5e-6).
"""

from dataclasses import dataclass

TOLERATED_FACTOR = 3.0  # outside the known range by this factor
SMALL_MODEL_PARAMETERS = 2e8  # models below this many parameters take other rates, and cost little to try


@dataclass(frozen=True)
class Range:
    """
    Rates that are known to work for a kind of training.

    Attributes:
        least: parameters of the smallest model that it is for.
        low: of the rates.
        high: of the rates.
        source: who reports them.
        questioned: from which rate on a training is questioned; by default TOLERATED_FACTOR above `high`.
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
    """What to say of a peak learning rate for a model of so many parameters; None where there is nothing to say."""
    usual = next((usual for usual in (LORA if adapter else FULL) if parameters >= usual.least), None)
    if usual is None:
        return None
    questioned = usual.questioned or usual.high * TOLERATED_FACTOR
    if usual.low / TOLERATED_FACTOR <= rate < questioned:
        return None
    kind = "adapters" if adapter else "all parameters"
    return (
        f"learning_rate {rate:g} is far from what is known for {kind} of such a model: "
        f"{usual.low:g} to {usual.high:g} ({usual.source}). Too high a rate collapses hours in."
    )
