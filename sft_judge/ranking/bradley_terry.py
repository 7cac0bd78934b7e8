"""
Bradley-Terry model of strengths from battles, with Davidson's extension to ties.

A battle is a row of the design matrix: +1 for the model of response a, -1 for the model of response b, followed by the
differences in other features. Its product with the strengths is u_a - u_b, in log-odds, and

    p_a : p_b : p_tie = e^{(u_a - u_b) / 2} : e^{-(u_a - u_b) / 2} : nu           (Davidson 1970)

With nu = 0 this is the model of Bradley and Terry (1952), in which a tie counts as half a win for each side. Counts
need not be integers: a judge's probabilities count as fractions of each verdict.

As a prior, every parameter has an additional row of PRIOR evenly decided battles, as if each model had met a model of
strength 0. The prior keeps the strength of an undefeated model finite and is much weaker than a single real battle.
"""

import numpy as np
from scipy import sparse

PRIOR = 0.1  # battles
# Maximum number of Newton steps. The fit stops when a step would gain less than this many nats of log-likelihood; it
# is then within 1e-5 standard errors of the maximum.
_MOST_STEPS, _LEAST_GAIN = 1000, 1e-11
_LARGEST_STEP = 2.0  # log-odds beyond the largest parameter; if the likelihood is flat, a Newton step may be any size
_LEAST_SHARE = 1e-4  # share of the gain predicted by the slope that a step must reach (Armijo), to avoid cycles
_NUMBERS_AT_ONCE = 2_000_000  # numbers in memory per block of fits


def design_matrix(sides: np.ndarray, num_models: int, features: np.ndarray | None = None) -> sparse.csr_array:
    """
    Build the design matrix `[R, M + F]`.

    Args:
        sides: models of responses a and b in each row `[R, 2]`.
        num_models: number of models M.
        features: feature differences of each row `[R, F]`.
    """
    rows = np.arange(len(sides))
    places = (np.concatenate([rows, rows]), np.concatenate([sides[:, 0], sides[:, 1]]))
    signs = np.repeat([1.0, -1.0], len(sides))
    models = sparse.csr_array((signs, places), (len(sides), num_models))
    if features is None or not features.shape[1]:
        return models
    return sparse.hstack([models, sparse.csr_array(features)], format="csr")


def fit(design: sparse.csr_array, counts: np.ndarray, ties: bool, start: np.ndarray | None = None) -> np.ndarray:
    """
    Fit the maximum-likelihood parameters of D sets of counts with Newton's method.

    The likelihood is concave and, with the prior, has a single maximum.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts of each verdict `[D, R, 3]`.
        ties: fit Davidson's model instead of Bradley-Terry.
        start: initial parameters `[Q]`, with `ties` `[Q + 1]`; defaults to zero.

    Returns:
        Parameters `[D, Q]`, with `ties` `[D, Q + 1]` (the last is log nu).
    """
    design, counts = with_prior(design, counts, ties)
    size = design.shape[1] + ties
    step = max(1, _NUMBERS_AT_ONCE // max(size**2, 3 * design.shape[0]))
    start = np.zeros(size) if start is None else start
    blocks = [counts[place : place + step] for place in range(0, len(counts), step)]
    return np.concatenate([_newton(design, block, np.tile(start, (len(block), 1))) for block in blocks])


def with_prior(design: sparse.csr_array, counts: np.ndarray, ties: bool) -> tuple[sparse.csr_array, np.ndarray]:
    """
    Append the rows of the prior to the design matrix and the counts.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts of each verdict `[D, R, 3]`.
        ties: keep ties as a separate verdict (K = 3); otherwise split them in half (K = 2).

    Returns:
        Design matrix `[R + Q, Q]` and counts `[D, R + Q, K]`.
    """
    if not ties:  # a tie is half a win for each
        counts = counts[..., :2] + counts[..., 2:] / 2
    num = counts.shape[-1]
    prior = np.full((len(counts), design.shape[1], num), PRIOR / num)
    return sparse.vstack([design, sparse.eye_array(design.shape[1])], "csr"), np.concatenate([counts, prior], axis=1)


def _newton(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """
    Maximise the log-likelihood of D fits at once with damped Newton steps.

    Each step solves (curvature + damping) step = slope. The damping limits the length of a step, which is unbounded
    where the likelihood is flat. A backtracking line search then halves the steps that do not raise the likelihood
    enough.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts `[D, R, K]`.
        parameters: initial parameters `[D, Q (+ 1)]`.
    """
    likelihood = log_likelihood(design, counts, parameters)
    for _ in range(_MOST_STEPS):
        slope, curvature = derivatives(design, counts, parameters)
        # Levenberg damping: adding |slope| / longest to the diagonal keeps every step at most `longest` long, and
        # shortens a step most in directions in which the likelihood is flat.
        longest = _LARGEST_STEP + np.abs(parameters).max(axis=1)
        damping = np.linalg.norm(slope, axis=1) / longest
        damped = curvature + damping[:, None, None] * np.eye(slope.shape[1])
        step = np.linalg.solve(damped, slope[..., None])[..., 0]
        gain = (slope * step).sum(axis=1)  # predicted gain of each fit, to first order
        if gain.max() < _LEAST_GAIN:
            return parameters + step
        while True:  # halve the steps of fits whose likelihood rises less than the Armijo condition requires
            reached = log_likelihood(design, counts, parameters + step)
            short = reached < likelihood + _LEAST_SHARE * gain - 1e-10 * np.abs(likelihood)
            if not short.any():
                break
            step[short] /= 2
            gain[short] /= 2
        parameters, likelihood = parameters + step, reached
    raise AssertionError(f"no maximum in {_MOST_STEPS} steps; the last was {np.abs(step).max():.3g}")


def log_probabilities(difference: np.ndarray, log_nu: np.ndarray | None = None) -> np.ndarray:
    """
    Compute the log-probabilities of the verdicts `[..., K]`.

    Args:
        difference: utilities u_a - u_b `[...]`.
        log_nu: log of the tie parameter `[...]`; K is 3 if given, otherwise 2.
    """
    half = difference / 2
    powers = [half, -half] if log_nu is None else [half, -half, np.broadcast_to(log_nu, half.shape)]
    powers = np.stack(powers, axis=-1)
    return powers - np.logaddexp.reduce(powers, axis=-1, keepdims=True)


def _row_log_probabilities(design, counts, parameters) -> np.ndarray:
    log_nu = parameters[:, -1:] if counts.shape[-1] == 3 else None
    return log_probabilities((design @ parameters[:, : design.shape[1]].T).T, log_nu)


def log_likelihood(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """
    Compute the log-likelihood `[D]`.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts `[D, R, K]`.
        parameters: parameters `[D, Q (+ 1)]`.
    """
    return (counts * _row_log_probabilities(design, counts, parameters)).sum(axis=(1, 2))


def row_scores(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    Compute each row's contribution to the derivatives of the log-likelihood.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts `[D, R, K]`.
        parameters: parameters `[D, Q (+ 1)]`.

    Returns:
        Five arrays `[D, R]`: first derivatives with respect to the row's utility difference and to log nu; negative
        second derivatives with respect to the utility difference, to both, and to log nu. Those of log nu are 0 if K =
        2.
    """
    probs = np.exp(_row_log_probabilities(design, counts, parameters))
    num, lead = counts.sum(axis=-1), probs[..., 0] - probs[..., 1]
    tie = probs[..., 2] if counts.shape[-1] == 3 else np.zeros_like(num)
    tied = counts[..., 2] if counts.shape[-1] == 3 else 0.0
    by_utility = (counts[..., 0] - counts[..., 1] - num * lead) / 2
    return by_utility, tied - num * tie, num * (1 - tie - lead**2) / 4, -num * lead * tie / 2, num * tie * (1 - tie)


def derivatives(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the gradient `[D, Q (+ 1)]` and the negative Hessian `[D, Q (+ 1), Q (+ 1)]` of the log-likelihood.

    Args:
        design: design matrix `[R, Q]`.
        counts: counts `[D, R, K]`.
        parameters: parameters `[D, Q (+ 1)]`.
    """
    by_utility, by_nu, curve, mixed, curve_nu = row_scores(design, counts, parameters)
    slope = (design.T @ by_utility.T).T
    curvature = weighted_squares(design, curve)
    if counts.shape[-1] == 2:
        return slope, curvature
    mixed = (design.T @ mixed.T).T[..., None]
    corner = curve_nu.sum(axis=1)[:, None, None]
    whole = np.block([[curvature, mixed], [np.moveaxis(mixed, 1, 2), corner]])
    return np.concatenate([slope, by_nu.sum(axis=1)[:, None]], axis=1), whole


def weighted_squares(design: sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    """
    Compute design' diag(w) design `[D, Q, Q]` for each row w of the weights.

    Args:
        design: design matrix `[R, Q]`.
        weights: weights of the rows `[D, R]`.
    """
    if len(weights) == 1:
        return (design.T @ (design * weights.T)).toarray()[None]
    # For many sets of weights: `squares` holds, for each row of the design, the products of all pairs of its nonzero
    # entries, at the flat index of the pair's columns. One sparse product with the weights then sums them over rows.
    # `first` and `second` enumerate the pairs of entries of each row.
    num_rows, size = design.shape
    row = np.repeat(np.arange(num_rows), np.diff(design.indptr))
    others = np.diff(design.indptr)[row]
    first = np.repeat(np.arange(design.nnz), others)
    second = np.arange(len(first)) + np.repeat(design.indptr[row] - np.cumsum(others) + others, others)
    cells = size * design.indices[first].astype(int) + design.indices[second]
    values = design.data[first] * design.data[second]
    squares = sparse.csr_array((values, (cells, row[first])), (size**2, num_rows))
    return (squares @ weights.T).T.reshape(-1, size, size)
