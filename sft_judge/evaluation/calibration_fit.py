"""
Fitting a calibration on rows that the judge did not see: the simplest form that held-out rows support.

Forms, simplest first: none; one temperature; vector scaling with a and b tied (a tie has its own temperature and
offset). Each is fitted on four fifths of the prompts and scored on the last fifth, in turns (cross-fitting). One
temperature must have the lower log loss there, what is richer must beat the simpler beyond chance. A language gets
parameters of its own where they beat everybody's on its rows. On few prompts, or one verdict alone, nothing is fitted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.probs import clip_log
from sft_judge.evaluation.bootstrap import MIN_PROMPTS, interval, resample
from sft_judge.evaluation.metrics import RAISED, cross_entropy, figures, one_hot, row_columns
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling

RANGE = (0.05, 20.0)  # of temperatures
OFFSETS = (-5.0, 5.0)  # of the tie's logit
FOLDS = 5
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


def fit_temperature(probs: np.ndarray, verdicts: np.ndarray) -> dict:
    """The temperature of least log loss (Guo et al. 2017, section 4.2); it and those below lie within RANGE."""
    return {"temperature": float(np.exp(_least(probs, verdicts, [0.0], lambda x: (np.exp(x[0]),))[0]))}


def fit_vector(probs: np.ndarray, verdicts: np.ndarray) -> dict:
    """A temperature of a and b, one of the tie, and the tie's offset, of least log loss [N, 3]."""
    x = _least(probs, verdicts, [0.0, 0.0, 0.0], lambda x: (np.exp(x[0]), np.exp(x[1]), x[2]))
    return {"temperature": float(np.exp(x[0])), "tie_temperature": float(np.exp(x[1])), "tie_offset": float(x[2])}


def _least(probs, verdicts, start, parameters) -> np.ndarray:
    rows = np.arange(len(verdicts))
    bounds = [tuple(np.log(RANGE)), tuple(np.log(RANGE)), OFFSETS][: len(start)]

    def loss(x) -> float:
        return -clip_log(apply_scaling(probs, *parameters(x))[rows, verdicts]).mean()

    return minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8}).x


FIT = dict(zip(FORMS, (fit_temperature, fit_vector), strict=True))


def cross_fit(held: HeldOut, fit) -> np.ndarray:
    """Log loss [N] of each row under the calibration that `fit(Held)` makes of the other prompts' rows."""
    losses = np.empty(len(held.verdicts))
    for train, test in GroupKFold(FOLDS).split(held.verdicts, groups=held.clusters):
        losses[test] = held.select(test).losses(fit(held.select(train)))
    return losses


def too_little(held: HeldOut) -> str | None:
    """Why these rows support no calibration, however well one may seem to fit them; None where they may."""
    prompts, verdicts = int(held.clusters.max()) + 1, np.unique(held.verdicts)
    if len(verdicts) == 1:
        return f"every verdict is {VERDICTS[verdicts[0]]}, which the boldest calibration would fit best"
    return f"they are of {prompts} prompts, of {MIN_PROMPTS} needed" if prompts < MIN_PROMPTS else None


def choose_calibration(held: HeldOut, form: str | None = None) -> tuple[dict | None, dict]:
    """
    The calibration to keep, fitted on all rows (None: none helps), and what speaks for it.

    A `form` of FORMS is kept even without a gain: to compare judges that are calibrated in the same form.

    `{"form", "gain", "before", "after"}`, with intervals over prompts: the drop in log loss in cross-fitting; log loss
    and ece on the rows themselves, raw and with the calibration that was fitted on them. `too_little` says, where it
    stands there, why nothing was fitted.
    """
    raw, lacking = held.losses(None), too_little(held)
    tried = (form,) if form else FORMS if held.probs.shape[1] == 3 else FORMS[:1]
    best, form_chosen, calibration = raw, "none", None
    for name in () if lacking else tried:
        losses = cross_fit(held, lambda part, name=name: FIT[name](part.probs, part.verdicts))
        gain = interval_of(best - losses, held.clusters)
        if form or gain["value" if name == "temperature" else "low"] > 0:
            best, form_chosen, calibration = losses, name, FIT[name](held.probs, held.verdicts)
    if calibration:
        best, own = _of_languages(held, form_chosen, best)
        calibration |= {"languages": own} if own else {}
    evidence = {"form": form_chosen, "gain": interval_of(raw - best, held.clusters)}
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
        its = cross_fit(part, lambda some: FIT[form](some.probs, some.verdicts))
        if interval_of(losses[rows] - its, part.clusters)["low"] > 0:
            own[language], losses[rows] = FIT[form](part.probs, part.verdicts), its
    return losses, own


def interval_of(values: np.ndarray, clusters: np.ndarray) -> dict:
    """The mean of [N] with its interval."""
    sums = resample({"sum": values, "n": np.ones(len(values))}, clusters)
    return interval(sums["sum"] / sums["n"])


def before_and_after(held: HeldOut, calibration: dict | None) -> dict:
    """`{"before", "after"}`, each `{"log_loss", "ece"}` with intervals, on these rows themselves."""
    metrics = {}
    for name, one in (("before", None), ("after", calibration)):
        scaled = apply_calibration(held.probs, one, held.languages)
        draws = figures(resample(row_columns(scaled, held.verdicts), held.clusters))
        metrics[name] = {key: interval(draws[key], key in RAISED) for key in ("log_loss", "ece")}
    return metrics
