"""
Fitting a calibration on held-out rows, in the form that these rows support.

Forms, simplest first: none; one temperature; vector scaling with a and b tied (a tie has its own temperature and
offset). Each form is fitted on four fifths of the prompts and scored on the remaining fifth, in turn (cross-fitting).
The form with the lowest cross-fitted log loss is kept. A language gets its own parameters if they beat the shared
parameters on its rows significantly. Nothing is fitted on few prompts, on a single verdict, or without errors.

The prior of a fit is a set of extra prompts on which the judge's probabilities are true: the same rows, with its
probabilities as soft verdicts, weighted as PRIOR_PROMPTS prompts for each of k parameters. Fitted on n prompts
without a prior, an already calibrated judge loses k / 2n nats. With m prior prompts it loses k n / (2 (n + m)^2),
which is at most k / (8 m). With m = k PRIOR_PROMPTS the loss is at most 1 / (8 PRIOR_PROMPTS), whatever the prompts,
the form and the judge; `scripts/calibration_simulation.py` tests this.
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
PRIOR_PROMPTS = 35  # per parameter; an already calibrated judge loses at most 0.0036 nats
MIN_LIKELIHOOD = 0.05  # of no error at all, by the judge's own probabilities: without errors there is nothing to learn
LEAST_ROWS = 200  # of a language, to fit its own parameters
FORMS = ("temperature", "vector")


@dataclass
class HeldOut:
    """
    Held-out rows to fit a calibration on.

    Attributes:
        probs: raw probabilities `[N, K]`, averaged over orders.
        verdicts: people's verdicts `[N]`.
        clusters: prompt of each row `[N]`.
        languages: language of each row `[N]`, None if unknown.
    """

    probs: np.ndarray
    verdicts: np.ndarray
    clusters: np.ndarray
    languages: np.ndarray

    def select(self, rows: np.ndarray) -> "HeldOut":
        """Select some of the rows; prompts are renumbered."""
        clusters = np.unique(self.clusters[rows], return_inverse=True)[1]
        return HeldOut(self.probs[rows], self.verdicts[rows], clusters, self.languages[rows])

    def losses(self, calibration: dict | None) -> np.ndarray:
        """Compute the log loss `[N]` in nats under a calibration."""
        scaled = apply_calibration(self.probs, calibration, self.languages)
        return cross_entropy(one_hot(self.verdicts, scaled.shape[1]), scaled)

    def errors(self) -> int:
        """Count the rows whose most probable verdict is not people's."""
        return int((self.probs[np.arange(len(self.verdicts)), self.verdicts] < self.probs.max(axis=1)).sum())


def fit_temperature(held: HeldOut) -> dict:
    """Fit the temperature with the lowest log loss under the prior, within RANGE (Guo et al. 2017, section 4.2)."""
    return {"temperature": float(np.exp(_least(held, [0.0], lambda x: (np.exp(x[0]),))[0]))}


def fit_vector(held: HeldOut) -> dict:
    """
    Fit vector scaling: a temperature of a and b, a temperature of the tie, and the tie's offset.

    The fit has the lowest log loss under the prior. The rows have three verdicts `[N, 3]`.
    """
    x = _least(held, [0.0, 0.0, 0.0], lambda x: (np.exp(x[0]), np.exp(x[1]), x[2]))
    return {"temperature": float(np.exp(x[0])), "tie_temperature": float(np.exp(x[1])), "tie_offset": float(x[2])}


def _least(held: HeldOut, start: list[float], parameters) -> np.ndarray:
    """
    Minimise the mean log loss plus prior over the parameters; temperatures are searched on a log scale.

    Args:
        held: rows to fit on.
        start: initial values; their number selects the form.
        parameters: maps the search vector to the arguments of `apply_scaling`.
    """
    bounds = [tuple(np.log(RANGE)), tuple(np.log(RANGE)), OFFSETS][: len(start)]
    # the prior: the same rows again, with the judge's own probabilities as soft verdicts
    prior = PRIOR_PROMPTS * len(start) / effective_prompts(held.clusters)
    targets = one_hot(held.verdicts, held.probs.shape[1]) + prior * held.probs

    def loss(x) -> float:
        return cross_entropy(targets, apply_scaling(held.probs, *parameters(x))).mean()

    return minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8}).x


def effective_prompts(clusters: np.ndarray) -> float:
    """
    Return the effective number of prompts (Kish 1965, section 11.7).

    It is the number of equal-sized prompts with the same information, if all rows of a prompt agree.
    """
    sizes = np.bincount(clusters)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


FIT = dict(zip(FORMS, (fit_temperature, fit_vector), strict=True))


def cross_fit(held: HeldOut, fit) -> np.ndarray:
    """
    Compute each row's log loss `[N]` under a calibration fitted on the other prompts' rows.

    Args:
        held: rows to fit on and score.
        fit: function from `HeldOut` to a calibration.
    """
    losses = np.empty(len(held.verdicts))
    for train, test in GroupKFold(FOLDS).split(held.verdicts, groups=held.clusters):
        losses[test] = held.select(test).losses(fit(held.select(train)))
    return losses


def too_little(held: HeldOut, form: str | None = None) -> str | None:
    """
    Return why these rows support no calibration, or None if they may.

    Args:
        held: rows to fit on.
        form: a form that is kept in any case, so that the check for errors is skipped; None checks for errors too.
    """
    prompts, verdicts = int(held.clusters.max()) + 1, np.unique(held.verdicts)
    if len(verdicts) == 1:
        return f"every verdict is {VERDICTS[verdicts[0]]}, which the most extreme calibration would fit best"
    if prompts < MIN_PROMPTS:
        return f"they cover {prompts} prompts, but {MIN_PROMPTS} are needed"
    expected = held.probs.max(axis=1).prod()  # the judge's own probability of no error on any row
    if form or held.errors() or expected < MIN_LIKELIHOOD:
        return None
    return f"the judge makes no error on them, which has a probability of {expected:.0%} if it is calibrated already"


def fit_best(held: HeldOut, form: str | None = None) -> tuple[dict | None, str, np.ndarray]:
    """
    Fit the calibration with the lowest log loss in cross-fitting.

    Args:
        held: rows to fit on.
        form: one of FORMS, which is kept even without a gain; None selects the best form or no calibration.

    Returns:
        The calibration, fitted on all rows (None if none helps); its form ("none" for no calibration); and the
        cross-fitted log loss `[N]`.
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
    Choose the calibration to keep and report the evidence for it.

    Args:
        held: rows to fit on.
        form: one of FORMS, which is kept even without a gain, to compare judges calibrated in the same form.

    Returns:
        The calibration, fitted on all rows (None if none helps), and `{"form", "gain", "errors", "before", "after"}`
        with intervals over prompts. `gain` is the drop in cross-fitted log loss, without an interval on fewer than
        MIN_ERRORS errors. `errors` counts the rows on which the judge errs. `before` and `after` hold log loss and ECE
        on the same rows, raw and with the calibration that was fitted on them. `too_little`, if present, says why
        nothing was fitted.
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
    """
    Fit parameters for each language whose own parameters beat the shared ones in cross-fitting.

    Returns:
        The cross-fitted losses `[N]` with the languages' parameters, and these parameters by language.
    """
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
    """
    Compute the mean of `values` `[N]` with its interval.

    Args:
        values: one value per row `[N]`.
        clusters: prompt of each row `[N]`.
    """
    sums = resample({"sum": values, "n": np.ones(len(values))}, clusters)
    return interval(sums["sum"] / sums["n"], sums.of_prompts["n"])


def before_and_after(held: HeldOut, calibration: dict | None) -> dict:
    """
    Compute log loss and ECE, raw and calibrated, with intervals on these rows.

    Args:
        held: rows to score.
        calibration: calibration to apply for `after`; None leaves the probabilities as they are.

    Returns:
        `{"before", "after"}`, each `{"log_loss", "ece"}`.
    """
    metrics = {}
    for name, one in (("before", None), ("after", calibration)):
        scaled = apply_calibration(held.probs, one, held.languages)
        draws = resample(row_columns(scaled, held.verdicts), held.clusters)
        metrics[name] = figure_intervals(draws, ("log_loss", "ece"))
    return metrics
