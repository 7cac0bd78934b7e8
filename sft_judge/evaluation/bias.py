"""
What sways a judge beside what is said: looks, length, and whether a model of its own family wrote the response.

A judge may like longer answers because people do. So each effect is measured on people's verdicts, on the judge's
probabilities, and on the difference of the two, row by row: a calibrated judge that is swayed no more than people has
a difference of zero, whatever the quality of the answers (the verdict itself stands for it).
"""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.data.style import FEWEST_SHOWING, STYLES, standardise, style_counts, style_differences
from sft_judge.evaluation.align import column
from sft_judge.evaluation.bootstrap import Draws, interval
from sft_judge.evaluation.metrics import one_hot

# family: what its open weights are called; GPT-2 and GPT-NeoX are not of the family of GPT-4
FAMILIES = {name: name for name in ("qwen", "gemma", "llama", "mistral", "phi", "deepseek")} | {"gpt": "gpt.?oss"}
ROWS_A_STYLE = 10


def lead(probs: np.ndarray) -> np.ndarray:
    """Probability of a less that of b [N], from -1 to 1, of probabilities [N, K]."""
    return probs[:, 0] - probs[:, 1]


def style_features(battles: pa.Table) -> dict[str, np.ndarray]:
    """`{style: [N]}`: differences of the responses on one scale, without those that are always zero."""
    counts = [style_counts(battles[name], list(STYLES)) for name in ("response_a", "response_b")]
    values = standardise(style_differences(*counts))
    return {name: column for name, column in zip(STYLES, values.T, strict=True) if column.any()}


def style_columns(features: dict[str, np.ndarray], people: np.ndarray, judge: np.ndarray) -> dict[str, np.ndarray]:
    """
    The cross products that `style_effects` solves, of `lead` of people and of a judge [N] each.

    Least squares on all styles at once, with a constant: what one style does when the others stay as they are. None
    of fewer than ROWS_A_STYLE rows a style, which would say more of the noise than of the styles.
    """
    if not features or len(people) < ROWS_A_STYLE * len(features):
        return {}
    x = np.stack([np.ones(len(people)), *features.values()], axis=1)
    return {"style x": x[:, :, None] * x[:, None, :], "style y": x[:, :, None] * np.stack([people, judge], 1)[:, None]}


def style_effects(draws: Draws, names) -> dict[str, dict]:
    """
    `{style: {"people", "judge", "difference"}}` of resampled columns, each in points of `lead` (0.01 is one percent).

    For one standard deviation more of a style in response a than in b: what it adds to the lead of a. Nothing is said
    of a style that fewer than FEWEST_SHOWING prompts show. Draws in which the styles cannot be told apart (two always
    go together, one does not occur) count as undefined.
    """
    if "style x" not in draws:
        return {}
    products = np.nan_to_num(draws["style x"])
    defined = np.linalg.matrix_rank(products, hermitian=True) == products.shape[-1]
    effects = np.full(draws["style y"].shape, np.nan)
    effects[defined] = np.linalg.solve(products[defined], draws["style y"][defined])
    shown = np.diagonal(draws.of_prompts["style x"], axis1=1, axis2=2)  # how much of each style a prompt shows
    effects[:, (shown > 0).sum(axis=0) < FEWEST_SHOWING] = np.nan  # of too few prompts to tell
    return {
        name: {
            "people": interval(effects[:, place, 0], shown[:, place]),
            "judge": interval(effects[:, place, 1], shown[:, place]),
            "difference": interval(effects[:, place, 1] - effects[:, place, 0], shown[:, place]),
        }
        for place, name in enumerate(names, 1)
    }


def longer_columns(longer: np.ndarray, chosen: np.ndarray, verdicts: np.ndarray) -> dict[str, np.ndarray]:
    """Of choices of one of two responses of unequal length: how many name the longer, and how many there are."""
    columns, rows = {}, np.arange(len(longer))
    for who, shares in (("judge", chosen), ("people", one_hot(verdicts, chosen.shape[1]))):
        parts = np.stack([shares[rows, longer], shares[:, :2].sum(axis=1)], axis=1)
        columns[f"longer {who}"] = np.where((longer >= 0)[:, None], parts, 0.0)
    return columns


def family_of(model: str | Path | None) -> str | None:
    """The family a judge's weights are of, by the `model_type` of its folder or base; None where it is not known."""
    folder = Path(model) if model else None
    for name, key in (("config.json", "model_type"), ("adapter_config.json", "base_model_name_or_path")):
        if folder and (folder / name).is_file():
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            own = Path(str(config.get(key, ""))).name.lower()
            families = (family for family, called in FAMILIES.items() if re.search(f"(?<![a-z]){called}", own))
            return next(families, None)
    return None


def own_columns(battles: pa.Table, family: str | None, probs: np.ndarray, people: np.ndarray) -> dict[str, np.ndarray]:
    """The lead of the judge's own family over others, of a judge and of people, where just one response is of it."""
    sides = [column(battles, name) for name in ("model_a", "model_b")]
    if family is None or not any(sides[0]):
        return {}
    pattern = re.compile(rf"(?<![a-z])(chat)?{family}", re.IGNORECASE)
    of_a, of_b = (np.array([bool(pattern.search(name or "")) for name in names]) for names in sides)
    sign = of_a.astype(float) - of_b
    if not sign.any():
        return {}
    return {"own": np.stack([np.abs(sign), sign * people, sign * lead(probs)], axis=1)}


def own_family(draws: Draws, family: str) -> dict:
    """`{"family", "n", "people", "judge", "difference"}`: how far ahead responses of the judge's own family are."""
    n, people, judge = np.moveaxis(draws["own"], -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {"people": people / n, "judge": judge / n, "difference": (judge - people) / n}
    return {"family": family, "n": int(n[0])} | {
        name: interval(values, draws.of_prompts["own"][:, 0]) for name, values in rates.items()
    }
