"""
Fitting a calibration on rows that the judge did not see: the form that held-out rows support.

Forms, simplest first: none; one temperature; vector scaling with a and b tied (a tie has its own temperature and
offset). Each is fitted on four fifths of the prompts and scored on the last fifth, in turns (cross-fitting); the least
log loss there is kept. A language gets parameters of its own where they beat everybody's on its rows beyond chance. On
few prompts, one verdict alone, or without errors, nothing is fitted.

The prior of a fit is more prompts, in which the judge is right: the rows once more, with the judge's probabilities
for verdicts, which count as PRIOR_PROMPTS prompts for each of k parameters. Fitted on n prompts alone, a judge that is
right loses k / 2n nats; with m prompts of a prior k n / 2 (n + m)^2, which is k / 8m at most. So it is
1 / (8 PRIOR_PROMPTS) at most, whatever the prompts, the form and the judge; `scripts/calibration_simulation.py` tries.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold

from sft_judge.core.verdicts import VERDICTS
from sft_judge.evaluation.bootstrap import MIN_ERRORS, MIN_PROMPTS, interval, resample
from sft_judge.evaluation.metrics import cross_entropy, figure_intervals, one_hot, row_columns
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling

RANGE = (0.05, 20.0)  # of temperatures
OFFSETS = (-5.0, 5.0)  # of the tie's logit
FOLDS = 5
PRIOR_PROMPTS = 35  # a parameter: a judge that is right loses 0.0036 nats at most
MIN_LIKELIHOOD = 0.05  # of no error at all, by the judge's own probabilities: without errors there is nothing to learn
LEAST_ROWS = 200  # of a language, for parameters of its own
FORMS = ("temperature", "vector")


@dataclass
class HeldOut:
    """Rows to fit on: raw `probs` [N, K] of averaged orders; verdicts, prompts as clusters, languages: [N] each."""

    probs: np.ndarray
    verdicts: np.ndarray
    clusters: np.ndarray
    languages: np.ndarray

    def select(self, rows: np.ndarray) -> "HeldOut":
        """Some of the rows; prompts are numbered anew."""
        clusters = np.unique(self.clusters[rows], return_inverse=True)[1]
        return HeldOut(self.probs[rows], self.verdicts[rows], clusters, self.languages[rows])

    def losses(self, calibration: dict | None) -> np.ndarray:
        """Log loss [N] in nats under a calibration."""
        scaled = apply_calibration(self.probs, calibration, self.languages)
        return cross_entropy(one_hot(self.verdicts, scaled.shape[1]), scaled)

    def errors(self) -> int:
        """Rows in which another verdict than people's is the most probable one."""
        return int((self.probs[np.arange(len(self.verdicts)), self.verdicts] < self.probs.max(axis=1)).sum())


def fit_temperature(held: HeldOut) -> dict:
    """The temperature of least log loss (Guo et al. 2017, section 4.2) under the prior; all temperatures in RANGE."""
    return {"temperature": float(np.exp(_least(held, [0.0], lambda x: (np.exp(x[0]),))[0]))}


def fit_vector(held: HeldOut) -> dict:
    """A temperature of a and b, one of the tie, and the tie's offset, of least log loss [N, 3] under the prior."""
    x = _least(held, [0.0, 0.0, 0.0], lambda x: (np.exp(x[0]), np.exp(x[1]), x[2]))
    return {"temperature": float(np.exp(x[0])), "tie_temperature": float(np.exp(x[1])), "tie_offset": float(x[2])}


def _least(held: HeldOut, start: list[float], parameters) -> np.ndarray:
    bounds = [tuple(np.log(RANGE)), tuple(np.log(RANGE)), OFFSETS][: len(start)]
    # the rows once more, with the verdicts that the judge itself expects of them
    prior = PRIOR_PROMPTS * len(start) / effective_prompts(held.clusters)
    targets = one_hot(held.verdicts, held.probs.shape[1]) + prior * held.probs

    def loss(x) -> float:
        return cross_entropy(targets, apply_scaling(held.probs, *parameters(x))).mean()

    return minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8}).x


def effective_prompts(clusters: np.ndarray) -> float:
    """Prompts of equal size that would tell as much, were all rows of a prompt the same (Kish 1965, section 11.7)."""
    sizes = np.bincount(clusters)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


FIT = dict(zip(FORMS, (fit_temperature, fit_vector), strict=True))


def cross_fit(held: HeldOut, fit) -> np.ndarray:
    """Log loss [N] of each row under the calibration that `fit(HeldOut)` makes of the other prompts' rows."""
    losses = np.empty(len(held.verdicts))
    for train, test in GroupKFold(FOLDS).split(held.verdicts, groups=held.clusters):
        losses[test] = held.select(test).losses(fit(held.select(train)))
    return losses


def too_little(held: HeldOut, form: str | None = None) -> str | None:
    """Why these rows support no calibration, however well one may seem to fit them; None where they may."""
    prompts, verdicts = int(held.clusters.max()) + 1, np.unique(held.verdicts)
    if len(verdicts) == 1:
        return f"every verdict is {VERDICTS[verdicts[0]]}, which the boldest calibration would fit best"
    if prompts < MIN_PROMPTS:
        return f"they are of {prompts} prompts, of {MIN_PROMPTS} needed"
    expected = held.probs.max(axis=1).prod()  # how likely the judge holds it to be right everywhere
    if form or held.errors() or expected < MIN_LIKELIHOOD:
        return None
    return f"the judge errs in none of them, which is {expected:.0%} likely if it is as sure as it should be"


def fit_best(held: HeldOut, form: str | None = None) -> tuple[dict | None, str, np.ndarray]:
    """
    Fit the calibration with the least log loss in cross-fitting.

    Args:
        held: rows to fit on.
        form: one of FORMS, which is kept even without a gain; None: the best, or no calibration.

    Returns:
        The calibration, fitted on all rows (None: none helps), its form ("none" for no calibration), and the log loss
        in cross-fitting [N].
    """
    best, form_chosen, calibration = held.losses(None), "none", None
    tried = (form,) if form else FORMS if held.probs.shape[1] == 3 else FORMS[:1]
    for name in () if too_little(held, form) else tried:
        losses = cross_fit(held, FIT[name])
        if form or losses.mean() < best.mean():
            best, form_chosen, calibration = losses, name, FIT[name](held)
    if calibration:
        best, own = _of_languages(held, form_chosen, best)
        calibration |= {"languages": own} if own else {}
    return calibration, form_chosen, best


def choose_calibration(held: HeldOut, form: str | None = None) -> tuple[dict | None, dict]:
    """
    The calibration to keep, fitted on all rows (None: none helps), and what speaks for it.

    A `form` of FORMS is kept even without a gain: to compare judges that are calibrated in the same form.

    `{"form", "gain", "errors", "before", "after"}`, with intervals over prompts: the drop in log loss in
    cross-fitting, of which there is no interval on fewer than MIN_ERRORS errors; the rows in which the judge errs; log
    loss and ece on the rows themselves, raw and with the calibration that was fitted on them. `too_little` says, where
    it stands there, why nothing was fitted.
    """
    calibration, form_chosen, losses = fit_best(held, form)
    gain, errors = interval_of(held.losses(None) - losses, held.clusters), held.errors()
    if errors < MIN_ERRORS:
        gain |= {"low": None, "high": None}
    evidence = {"form": form_chosen, "gain": gain, "errors": errors}
    lacking = too_little(held, form)
    evidence |= {"too_little": lacking} if lacking else {}
    return calibration, evidence | before_and_after(held, calibration)


def _of_languages(held: HeldOut, form: str, losses: np.ndarray) -> tuple[np.ndarray, dict]:
    """Where a language's own parameters beat everybody's on its held-out rows: the losses [N] with them, and they."""
    own, losses = {}, losses.copy()
    for language in sorted({name for name in held.languages if name is not None}):
        rows = held.languages == language
        if not LEAST_ROWS <= rows.sum() < len(rows):
            continue
        part = held.select(rows)
        if too_little(part):
            continue
        its = cross_fit(part, FIT[form])
        if (interval_of(losses[rows] - its, part.clusters)["low"] or 0) > 0:
            own[language], losses[rows] = FIT[form](part), its
    return losses, own


def interval_of(values: np.ndarray, clusters: np.ndarray) -> dict:
    """The mean of [N] with its interval."""
    sums = resample({"sum": values, "n": np.ones(len(values))}, clusters)
    return interval(sums["sum"] / sums["n"], sums.of_prompts["n"])


def before_and_after(held: HeldOut, calibration: dict | None) -> dict:
    """`{"before", "after"}`, each `{"log_loss", "ece"}` with intervals, on these rows themselves."""
    metrics = {}
    for name, one in (("before", None), ("after", calibration)):
        scaled = apply_calibration(held.probs, one, held.languages)
        draws = resample(row_columns(scaled, held.verdicts), held.clusters)
        metrics[name] = figure_intervals(draws, ("log_loss", "ece"))
    return metrics
