"""
Influence of style, length and model family on a judge.

A judge may like longer answers because people do. So each effect is measured on people's verdicts, on the judge's
probabilities, and on the difference of the two, row by row. If a calibrated judge is influenced exactly as people are,
the difference is zero. Quality needs no further control, because it affects both.
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

# family: pattern of its open weights' names; GPT-2 and GPT-NeoX do not belong to the family of GPT-4
FAMILIES = {name: name for name in ("qwen", "gemma", "llama", "mistral", "phi", "deepseek")} | {"gpt": "gpt.?oss"}
ROWS_A_STYLE = 10


def lead(probs: np.ndarray) -> np.ndarray:
    """Compute the probability of a minus the probability of b `[N]`, from -1 to 1, from probabilities `[N, K]`."""
    return probs[:, 0] - probs[:, 1]


def style_features(battles: pa.Table) -> dict[str, np.ndarray]:
    """Compute standardised style differences of the responses, `{style: [N]}`, without styles that are always zero."""
    counts = [style_counts(battles[name], list(STYLES)) for name in ("response_a", "response_b")]
    values = standardise(style_differences(*counts))
    return {name: column for name, column in zip(STYLES, values.T, strict=True) if column.any()}


def style_columns(features: dict[str, np.ndarray], people: np.ndarray, judge: np.ndarray) -> dict[str, np.ndarray]:
    """
    Compute the cross products that `style_effects` solves.

    The fit is least squares on all styles at once, with a constant: the effect of one style with the others held
    fixed.

    Args:
        features: standardised style differences, `{style: [N]}`.
        people: `lead` of people `[N]`.
        judge: `lead` of a judge `[N]`.

    Returns:
        Columns of the normal equations; empty on fewer than ROWS_A_STYLE rows per style, which would fit noise.
    """
    if not features or len(people) < ROWS_A_STYLE * len(features):
        return {}
    x = np.stack([np.ones(len(people)), *features.values()], axis=1)
    return {"style x": x[:, :, None] * x[:, None, :], "style y": x[:, :, None] * np.stack([people, judge], 1)[:, None]}


def style_effects(draws: Draws, names) -> dict[str, dict]:
    """
    Estimate the effect of each style on people and on the judge.

    An effect is what one standard deviation more of a style in response a than in b adds to the `lead` of a. A style
    that fewer than FEWEST_SHOWING prompts show has no estimate. Resamples in which the styles cannot be separated (two
    always occur together, or one does not occur) count as undefined.

    Args:
        draws: resampled `style_columns`.
        names: names of the styles, in the order of the columns.

    Returns:
        `{style: {"people", "judge", "difference"}}` in units of `lead` (0.01 is one percentage point), with intervals.
    """
    if "style x" not in draws:
        return {}
    products = np.nan_to_num(draws["style x"])
    defined = np.linalg.matrix_rank(products, hermitian=True) == products.shape[-1]
    effects = np.full(draws["style y"].shape, np.nan)
    effects[defined] = np.linalg.solve(products[defined], draws["style y"][defined])
    shown = np.diagonal(draws.of_prompts["style x"], axis1=1, axis2=2)  # how much of each style a prompt shows
    effects[:, (shown > 0).sum(axis=0) < FEWEST_SHOWING] = np.nan  # too few prompts show the style
    return {
        name: {
            "people": interval(effects[:, place, 0], shown[:, place]),
            "judge": interval(effects[:, place, 1], shown[:, place]),
            "difference": interval(effects[:, place, 1] - effects[:, place, 0], shown[:, place]),
        }
        for place, name in enumerate(names, 1)
    }


def longer_columns(longer: np.ndarray, chosen: np.ndarray, verdicts: np.ndarray) -> dict[str, np.ndarray]:
    """
    Compute the columns that count choices of the longer response, for the judge and for people.

    Args:
        longer: index of the longer response `[N]`, -1 if both are equally long.
        chosen: share of each verdict in the judge's choice `[N, K]`.
        verdicts: people's verdicts `[N]`.

    Returns:
        For each, `[N, 2]`: choices of the longer response, and choices of either response.
    """
    columns, rows = {}, np.arange(len(longer))
    for who, shares in (("judge", chosen), ("people", one_hot(verdicts, chosen.shape[1]))):
        parts = np.stack([shares[rows, longer], shares[:, :2].sum(axis=1)], axis=1)
        columns[f"longer {who}"] = np.where((longer >= 0)[:, None], parts, 0.0)
    return columns


def family_of(model: str | Path | None) -> str | None:
    """
    Return the family of a judge's weights, from the `model_type` or base model of its folder, or None if unknown.
    """
    folder = Path(model) if model else None
    for name, key in (("config.json", "model_type"), ("adapter_config.json", "base_model_name_or_path")):
        if folder and (folder / name).is_file():
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            own = Path(str(config.get(key, ""))).name.lower()
            families = (family for family, called in FAMILIES.items() if re.search(f"(?<![a-z]){called}", own))
            return next(families, None)
    return None


def own_columns(battles: pa.Table, family: str | None, probs: np.ndarray, people: np.ndarray) -> dict[str, np.ndarray]:
    """
    Compute the lead of the judge's own family over others, of the judge and of people.

    Args:
        battles: battles with model_a and model_b.
        family: the judge's family, None if unknown.
        probs: the judge's probabilities `[N, K]`.
        people: `lead` of people `[N]`.

    Returns:
        Column `own` `[N, 3]`, zero unless exactly one response is of the family; empty if there is no such row.
    """
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
    """
    Compute how far responses of the judge's own family lead, according to people and to the judge, with intervals.

    Args:
        draws: resampled `own_columns`.
        family: the judge's family.

    Returns:
        `{"family", "n", "people", "judge", "difference"}`.
    """
    n, people, judge = np.moveaxis(draws["own"], -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {"people": people / n, "judge": judge / n, "difference": (judge - people) / n}
    return {"family": family, "n": int(n[0])} | {
        name: interval(values, draws.of_prompts["own"][:, 0]) for name, values in rates.items()
    }
