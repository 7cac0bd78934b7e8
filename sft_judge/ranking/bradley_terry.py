"""
Strengths of models from what came of their battles: Bradley-Terry, and Davidson's extension to ties.

A battle is a row of the design: +1 for the model of response a, -1 for that of b, then what else differs between
them. Its product with the strengths is u_a - u_b, in log-odds, and

    p_a : p_b : p_tie = e^{(u_a - u_b) / 2} : e^{-(u_a - u_b) / 2} : nu           (Davidson 1970)

Without ties of its own kind (nu = 0) this is Bradley and Terry (1952), to which a tie counts as half a win of each.
Evidence need not be whole: a judge's probabilities count as so much of each verdict.

Every parameter also has a row of its own with PRIOR battles that come out evenly: each model has met one of strength 0
so often. This keeps finite the strength of a model that never lost, and is far below what any real battle says.
"""

import numpy as np
from scipy import sparse

PRIOR = 0.1  # battles
_MOST_STEPS, _LEAST_GAIN = 1000, 1e-11  # of log-likelihood, in nats: a step for less is within 1e-5 standard errors
_LARGEST_STEP = 2.0  # log-odds beyond the largest so far; where the likelihood is flat, Newton's own may be any size
_LEAST_SHARE = 1e-4  # of what its slope promises that a step must bring (Armijo); else two points could take turns
_NUMBERS_AT_ONCE = 2_000_000


def design_matrix(sides: np.ndarray, num_models: int, features: np.ndarray | None = None) -> sparse.csr_array:
    """The design [R, M + F] of rows between models `sides` [R, 2] whose features differ by [R, F]."""
    rows = np.arange(len(sides))
    places = (np.concatenate([rows, rows]), np.concatenate([sides[:, 0], sides[:, 1]]))
    signs = np.repeat([1.0, -1.0], len(sides))
    models = sparse.csr_array((signs, places), (len(sides), num_models))
    if features is None or not features.shape[1]:
        return models
    return sparse.hstack([models, sparse.csr_array(features)], format="csr")


def fit(design: sparse.csr_array, counts: np.ndarray, ties: bool, start: np.ndarray | None = None) -> np.ndarray:
    """
    The parameters [D, Q], with `ties` [D, Q + 1] (the last is log nu), that make D sets of counts [D, R, 3] likeliest.

    Newton's method; the likelihood is concave and, with the prior, has one maximum. `start` [Q or Q + 1] is a guess.
    """
    design, counts = with_prior(design, counts, ties)
    size = design.shape[1] + ties
    step = max(1, _NUMBERS_AT_ONCE // max(size**2, 3 * design.shape[0]))
    start = np.zeros(size) if start is None else start
    blocks = [counts[place : place + step] for place in range(0, len(counts), step)]
    return np.concatenate([_newton(design, block, np.tile(start, (len(block), 1))) for block in blocks])


def with_prior(design: sparse.csr_array, counts: np.ndarray, ties: bool) -> tuple[sparse.csr_array, np.ndarray]:
    """Design [R + Q, Q] and counts [D, R + Q, K] of the rows and of the prior's; K is 3 with `ties`, else 2."""
    if not ties:  # a tie is half a win of each
        counts = counts[..., :2] + counts[..., 2:] / 2
    num = counts.shape[-1]
    prior = np.full((len(counts), design.shape[1], num), PRIOR / num)
    return sparse.vstack([design, sparse.eye_array(design.shape[1])], "csr"), np.concatenate([counts, prior], axis=1)


def _newton(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    likelihood = log_likelihood(design, counts, parameters)
    for _ in range(_MOST_STEPS):
        slope, curvature = derivatives(design, counts, parameters)
        # Levenberg's damping: a step no longer than `longest`, shortened most where the likelihood is flat
        longest = _LARGEST_STEP + np.abs(parameters).max(axis=1)
        damping = np.linalg.norm(slope, axis=1) / longest
        damped = curvature + damping[:, None, None] * np.eye(slope.shape[1])
        step = np.linalg.solve(damped, slope[..., None])[..., 0]
        gain = (slope * step).sum(axis=1)
        if gain.max() < _LEAST_GAIN:
            return parameters + step
        while True:  # a step too far is halved, so that the likelihood rises
            reached = log_likelihood(design, counts, parameters + step)
            short = reached < likelihood + _LEAST_SHARE * gain - 1e-10 * np.abs(likelihood)
            if not short.any():
                break
            step[short] /= 2
            gain[short] /= 2
        parameters, likelihood = parameters + step, reached
    raise AssertionError(f"no maximum in {_MOST_STEPS} steps; the last was {np.abs(step).max():.3g}")


def log_probabilities(difference: np.ndarray, log_nu: np.ndarray | None = None) -> np.ndarray:
    """[..., K] of the verdicts for utilities u_a - u_b [...]; K is 3 where log nu [...] is given, else 2."""
    half = difference / 2
    powers = [half, -half] if log_nu is None else [half, -half, np.broadcast_to(log_nu, half.shape)]
    powers = np.stack(powers, axis=-1)
    return powers - np.logaddexp.reduce(powers, axis=-1, keepdims=True)


def _row_log_probabilities(design, counts, parameters) -> np.ndarray:
    log_nu = parameters[:, -1:] if counts.shape[-1] == 3 else None
    return log_probabilities((design @ parameters[:, : design.shape[1]].T).T, log_nu)


def log_likelihood(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """[D] of counts [D, R, K] under parameters [D, Q (+ 1)]."""
    return (counts * _row_log_probabilities(design, counts, parameters)).sum(axis=(1, 2))


def row_scores(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    Each row's share of the derivatives, of counts [D, R, K]: the slopes by its utility and by log nu, and the
    negative second derivatives by its utility, by both, and by log nu, each [D, R]; those of log nu are 0 where K = 2.
    """
    probs = np.exp(_row_log_probabilities(design, counts, parameters))
    num, lead = counts.sum(axis=-1), probs[..., 0] - probs[..., 1]
    tie = probs[..., 2] if counts.shape[-1] == 3 else np.zeros_like(num)
    tied = counts[..., 2] if counts.shape[-1] == 3 else 0.0
    by_utility = (counts[..., 0] - counts[..., 1] - num * lead) / 2
    return by_utility, tied - num * tie, num * (1 - tie - lead**2) / 4, -num * lead * tie / 2, num * tie * (1 - tie)


def derivatives(design: sparse.csr_array, counts: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope [D, Q (+ 1)] and negative curvature [D, Q (+ 1), Q (+ 1)] of the log-likelihood."""
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
    """design' diag(w) design [D, Q, Q] for each row w of weights [D, R]."""
    if len(weights) == 1:
        return (design.T @ (design * weights.T)).toarray()[None]
    # for many: each row's products of its entries two by two, once, then one product with all weights
    num_rows, size = design.shape
    row = np.repeat(np.arange(num_rows), np.diff(design.indptr))
    others = np.diff(design.indptr)[row]
    first = np.repeat(np.arange(design.nnz), others)
    second = np.arange(len(first)) + np.repeat(design.indptr[row] - np.cumsum(others) + others, others)
    cells = size * design.indices[first].astype(int) + design.indices[second]
    values = design.data[first] * design.data[second]
    squares = sparse.csr_array((values, (cells, row[first])), (size**2, num_rows))
    return (squares @ weights.T).T.reshape(-1, size, size)
