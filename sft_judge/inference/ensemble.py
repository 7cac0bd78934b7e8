"""
Combine the probabilities of several judges, with fixed weights or weights fitted by held-out log loss.

Weights may depend on the number of tokens or on the language. They are not negative and sum to one. A judge that did
not score a battle (because of a deadline, or in a cascade in which the second judge scores only uncertain battles) has
weight 0 there.
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
KEYS = {None: None, "tokens": "up_to", "language": "language"}  # for each `by`, the key that identifies a part
# folds of the cross-validation; parts of a rule by tokens; a part with fewer rows uses the weights fitted on all rows
FOLDS, PARTS, LEAST_ROWS = 5, 4, 200


@dataclass
class Rule:
    """
    Hold the weights of M judges for each part of the battles, and the kind of mean.

    Attributes:
        parts: `{"weights": [...]}` for each part. If `by` is tokens, all but the last also have `up_to`, a number of
            tokens of prompt and responses before truncation. If `by` is language, all but the last also have
            `language`; the last is for all other languages.
        mean: of MEANS.
        by: `tokens`, `language` or None.
        tokenizer: folder or Hub id of the tokenizer that counts the tokens.
        tokenizer_sha256: hash of the tokenizer's behaviour, see token_lengths.py.
    """

    parts: list[dict]
    mean: str = MEANS[0]
    by: str | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None

    def weights(self, keys: np.ndarray | None, num_rows: int) -> np.ndarray:
        """
        Return the weights of each battle.

        Args:
            keys: number of tokens or language of each battle [N], as `by` says; None without `by`.
            num_rows: N.

        Returns:
            Weights [N, M].
        """
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
    """Scale weights [M] to a sum of one. Raise `InputError` if a weight is negative or none is positive."""
    weights = np.asarray(weights, dtype=float)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError(f"Weights {weights.tolist()}: each must be 0 or more, and at least one above 0.")
    return weights / weights.sum()


def equal_rule(num: int) -> Rule:
    """Return a rule with the same weight for each judge."""
    return Rule([{"weights": [1.0 / num] * num}])


def read_rule(path: Path) -> Rule:
    """Read a rule's JSON. Raise `InputError` if the file is not a rule."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        rule = Rule(**{name: fields[name] for name in Rule.__dataclass_fields__ if name in fields})
        key = KEYS[rule.by]
        ends = [part[key] for part in rule.parts[:-1] if key]
        counts = {len(normalise_weights(part["weights"])) for part in rule.parts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        by_characters = (
            " Rules by length counted characters; fit a rule by tokens instead (--by tokens)."
            if error.args == ("length",)
            else ""
        )
        raise InputError(
            f"{path}: not a rule for weights ({type(error).__name__}: {error}).{by_characters}"
        ) from error
    named = all(isinstance(value, str | None) for value in (rule.tokenizer, rule.tokenizer_sha256))
    if rule.mean not in MEANS or len(counts) != 1 or not named or (rule.by == "tokens" and ends != sorted(ends)):
        raise InputError(
            f"{path}: expected a mean of {' or '.join(MEANS)}, the same number of weights in each part, increasing "
            "values of up_to, and a tokenizer's name."
        )
    return rule


def write_rule(path: Path, rule: Rule, fit_result: dict) -> None:
    """
    Write a rule as JSON.

    Args:
        path: the file.
        rule: the rule.
        fit_result: facts about the data that the rule was fitted on, added to the JSON.
    """
    write_json(path, asdict(rule) | fit_result)


def combine(
    members: list[np.ndarray], weights: np.ndarray, num: int, mean: str = MEANS[0], judged: np.ndarray | None = None
) -> np.ndarray:
    """
    Average the probabilities of M judges.

    Args:
        members: calibrated probabilities of each judge, [N, 3] or [N, num].
        weights: weights [N, M] or [M].
        num: number of verdicts of the result, 2 or 3.
        mean: of MEANS.
        judged: False where a judge did not score a battle [N, M]. Its weight is given to the other judges. If no judge
            with a weight scored a battle, all are averaged by `weights`.

    Returns:
        Probabilities [N, num].
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
    # The sum a + b is computed before the tie is added, so that exchanging a and b does not change the rounding.
    return total / (total[:, 0] + total[:, 1] + (total[:, 2] if num == 3 else 0))[:, None]


def log_loss(probs: np.ndarray, verdicts: np.ndarray) -> float:
    """
    Compute the mean log loss in nats.

    Args:
        probs: probabilities [N, K].
        verdicts: index of each row's verdict [N].
    """
    return float(-clip_log(probs[np.arange(len(verdicts)), verdicts]).mean())


def fit_weights(members: list[np.ndarray], verdicts: np.ndarray, mean: str) -> np.ndarray:
    """
    Fit the weights with the lowest log loss on the simplex. The problem is convex for both means, with one minimum.

    Args:
        members: probabilities of each judge [N, K].
        verdicts: index of each row's verdict [N].
        mean: of MEANS.

    Returns:
        Weights [M].
    """
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
    """
    Fit a rule of one form by the lowest log loss.

    Args:
        members: probabilities of each judge [N, K].
        verdicts: index of each row's verdict [N].
        mean: of MEANS.
        by: `tokens`, `language` or None.
        keys: number of tokens or language of each battle [N], if `by` is given.
    """
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
    Choose the form of rule with the lowest log loss in cross-validation by prompt, and fit it on all rows.

    Equal weights and one rule for all battles are always tried.

    Args:
        members: probabilities of each judge [N, K].
        verdicts: index of each row's verdict [N].
        clusters: group of each battle's prompt [N].
        keys: further forms to try, as {tokens or language: keys [N]}.

    Returns:
        The rule, and the forms with their losses `[(name, loss), ...]`, lowest first.
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
        raise InputError("All battles have the same prompt, but cross-validation of weights needs at least two.")
    losses = dict.fromkeys(forms, 0.0)
    for train, held in GroupKFold(splits).split(verdicts, groups=clusters):
        for name, form in forms.items():
            rule = made(form, train)
            weights = rule.weights(keys[rule.by][held] if rule.by else None, len(held))
            probs = combine([probs[held] for probs in members], weights, members[0].shape[1], rule.mean)
            losses[name] += log_loss(probs, verdicts[held]) * len(held) / len(verdicts)
    best = min(losses, key=losses.get)
    return made(forms[best], np.arange(len(verdicts))), sorted(losses.items(), key=lambda item: item[1])
