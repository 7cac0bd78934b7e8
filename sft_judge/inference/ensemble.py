"""
Several judges' probabilities to one: weights fixed, by tokens or language, or fitted by held-out log loss.

Weights are zero or more and sum to one. A judge that was not asked about a battle (a deadline, or a cascade in which
the second judge reads the uncertain ones alone) has none there.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold

from sft_judge.core.errors import InputError
from sft_judge.core.files import write_json
from sft_judge.data.probs import clip_log, first_verdicts

MEANS = ("probabilities", "log-probabilities")
KEYS = {None: None, "tokens": "up_to", "language": "language"}  # what a part is told by
FOLDS, PARTS, LEAST_ROWS = 5, 4, 200  # of cross-validation; of lengths; a smaller part takes the weights of all


@dataclass
class Rule:
    """
    Weights [M] of the judges for each part of the battles, and of what they are a mean.

    `parts` are `{"weights": [...]}`, with `by` tokens also `up_to` (tokens of prompt and responses, uncut; the last
    without), with `by` language also `language` (the last without: all others). Tokens are those of `tokenizer`, a
    folder or hub id, and `tokenizer_sha256` tells it by what it does: see token_lengths.py.
    """

    parts: list[dict]
    mean: str = MEANS[0]
    by: str | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None

    def weights(self, keys: np.ndarray | None, num_rows: int) -> np.ndarray:
        """Weights [N, M] for the tokens or languages [N] that `by` asks for."""
        table = np.array([normalise_weights(part["weights"]) for part in self.parts])
        if self.by is None:
            place = np.zeros(num_rows, dtype=int)
        elif self.by == "tokens":
            place = np.searchsorted([part["up_to"] for part in self.parts[:-1]], keys, side="left")
        else:
            part_of = {part["language"]: number for number, part in enumerate(self.parts[:-1])}
            place = np.array([part_of.get(key, len(part_of)) for key in keys], dtype=int)
        return table[place]


def normalise_weights(weights) -> np.ndarray:
    """Weights [M] that sum to one. Raises `InputError` for one below zero, or none above."""
    weights = np.asarray(weights, dtype=float)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError(f"Weights {weights.tolist()}: each must be zero or more, and one above zero.")
    return weights / weights.sum()


def equal_rule(num: int) -> Rule:
    """Each judge counts the same."""
    return Rule([{"weights": [1.0 / num] * num}])


def read_rule(path: Path) -> Rule:
    """Read a rule's JSON. Raises `InputError` where it is none."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        rule = Rule(**{name: fields[name] for name in Rule.__dataclass_fields__ if name in fields})
        key = KEYS[rule.by]
        ends = [part[key] for part in rule.parts[:-1] if key]
        counts = {len(normalise_weights(part["weights"])) for part in rule.parts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        by_characters = (
            " By length was by characters; fit by tokens (--by tokens)." if error.args == ("length",) else ""
        )
        raise InputError(
            f"{path}: not a rule for weights ({type(error).__name__}: {error}).{by_characters}"
        ) from error
    named = all(isinstance(value, str | None) for value in (rule.tokenizer, rule.tokenizer_sha256))
    if rule.mean not in MEANS or len(counts) != 1 or not named or (rule.by == "tokens" and ends != sorted(ends)):
        raise InputError(
            f"{path}: expected a mean of {' or '.join(MEANS)}, as many weights in each part, rising up_to, and a "
            "tokenizer's name."
        )
    return rule


def write_rule(path: Path, rule: Rule, fit_result: dict) -> None:
    """Write a rule as JSON, with what it was fitted on."""
    write_json(path, asdict(rule) | fit_result)


def combine(
    members: list[np.ndarray], weights: np.ndarray, num: int, mean: str = MEANS[0], judged: np.ndarray | None = None
) -> np.ndarray:
    """
    The mean [N, num] of calibrated probabilities [N, 3] or [N, num] each, by weights [N, M] or [M].

    `judged` [N, M] false where a judge was not asked: the others stand in for it, and where all are, it is as given.
    """
    weights = np.broadcast_to(weights, (len(members[0]), len(members)))
    if judged is not None:
        present = weights * judged
        weights = np.where(present.sum(axis=1, keepdims=True) > 0, present, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    each = [first_verdicts(probs, num) for probs in members]
    if mean == MEANS[1]:
        logs = sum(weights[:, [place]] * clip_log(probs) for place, probs in enumerate(each))
        total = np.exp(logs - logs.max(axis=1, keepdims=True))
    else:
        total = sum(weights[:, [place]] * probs for place, probs in enumerate(each))
    # a and b are added before the tie, so exchanging them cannot change the rounding
    return total / (total[:, 0] + total[:, 1] + (total[:, 2] if num == 3 else 0))[:, None]


def log_loss(probs: np.ndarray, verdicts: np.ndarray) -> float:
    """Mean over rows, in nats, of probabilities [N, K] for verdicts [N]."""
    return float(-clip_log(probs[np.arange(len(verdicts)), verdicts]).mean())


def fit_weights(members: list[np.ndarray], verdicts: np.ndarray, mean: str) -> np.ndarray:
    """Weights [M] of the least log loss over the simplex; convex for either mean, so there is but one minimum."""
    num, start = members[0].shape[1], np.full(len(members), 1 / len(members))
    solution = minimize(
        lambda weights: log_loss(combine(members, np.maximum(weights, 0) + 1e-12, num, mean), verdicts),
        start,
        method="SLSQP",
        bounds=[(0, 1)] * len(members),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-10},
    )
    return normalise_weights(np.clip(solution.x, 0, 1))


def fit_weight_rule(members: list[np.ndarray], verdicts: np.ndarray, mean: str, by: str | None, keys=None) -> Rule:
    """The rule of that form of the least log loss, of probabilities [N, K] each and keys [N] where `by` is given."""
    everywhere = fit_weights(members, verdicts, mean)
    if by is None:
        return Rule([{"weights": everywhere.tolist()}], mean)
    if by == "tokens":
        edges = np.unique(np.quantile(keys, np.linspace(0, 1, PARTS + 1)[1:-1]).astype(int)).tolist()
        parts, place = [{"up_to": edge} for edge in edges] + [{}], np.searchsorted(edges, keys, side="left")
    else:
        names = sorted(set(keys))
        parts = [{"language": name} for name in names if np.sum(keys == name) >= LEAST_ROWS] + [{}]
        part_of = {part["language"]: number for number, part in enumerate(parts[:-1])}
        place = np.array([part_of.get(key, len(part_of)) for key in keys])
    for number, part in enumerate(parts):
        rows = place == number
        few = rows.sum() < LEAST_ROWS
        fitted = everywhere if few else fit_weights([probs[rows] for probs in members], verdicts[rows], mean)
        part["weights"] = fitted.tolist()
    return Rule(parts, mean, by)


def choose_rule(
    members: list[np.ndarray], verdicts: np.ndarray, clusters: np.ndarray, keys: dict
) -> tuple[Rule, list]:
    """
    The rule of the least log loss in cross-validation by prompt, fitted on all rows, and `[(name, loss), ...]`.

    `keys` {tokens | language: [N]} are the forms to try beside one rule for all; equal weights are tried too.
    """
    forms = {f"equal weights, mean of {mean}": (mean, None, True) for mean in MEANS}
    forms |= {f"fitted, mean of {mean}": (mean, None, False) for mean in MEANS}
    forms |= {f"fitted by {by}, mean of {mean}": (mean, by, False) for by in keys for mean in MEANS}

    def made(form, rows) -> Rule:
        mean, by, plain = form
        if plain:
            return Rule(equal_rule(len(members)).parts, mean)
        return fit_weight_rule(
            [probs[rows] for probs in members], verdicts[rows], mean, by, keys[by][rows] if by else None
        )

    splits = min(FOLDS, len(np.unique(clusters)))
    if splits < 2:
        raise InputError("All battles have one prompt: there is nothing to cross-validate weights on.")
    losses = dict.fromkeys(forms, 0.0)
    for train, held in GroupKFold(splits).split(verdicts, groups=clusters):
        for name, form in forms.items():
            rule = made(form, train)
            weights = rule.weights(keys[rule.by][held] if rule.by else None, len(held))
            probs = combine([probs[held] for probs in members], weights, members[0].shape[1], rule.mean)
            losses[name] += log_loss(probs, verdicts[held]) * len(held) / len(verdicts)
    best = min(losses, key=losses.get)
    return made(forms[best], np.arange(len(verdicts))), sorted(losses.items(), key=lambda item: item[1])
