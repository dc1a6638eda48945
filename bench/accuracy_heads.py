"""The part of bench/accuracy.py about heads: estimators against plain NumPy on explicit matrices.

An input holds a head's matrix and the states it is fed, one above the other. `wide` has columns whose scale
falls from 1 to 1e-4, a badly conditioned head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound import metrics

Array = NDArray[np.float64]
TOKENS, STATES, WIDTH = 400, 120, 24
HEADS = 4


def heads(seed: int) -> dict[str, Array]:
    """Name: matrix (TOKENS, WIDTH) and states (STATES, WIDTH), stacked."""
    rng = np.random.default_rng(seed)
    weight, hidden = rng.normal(size=(TOKENS, WIDTH)), rng.normal(size=(STATES, WIDTH))
    return {
        "400 x 24": np.vstack([weight + 0.5, hidden]),
        "wide, 400 x 24": np.vstack([weight * np.logspace(0, -4, WIDTH), hidden]),
    }


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[TOKENS:], x[:TOKENS], torch.arange(STATES)


def log_prob(x: Array) -> Array:
    logits = x[TOKENS:] @ x[:TOKENS].T
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def centred_rows(x: Array) -> Array:
    rows = log_prob(x)
    rows = rows - rows.mean(1, keepdims=True)
    return rows - rows.mean(0)


def leading(matrix: Array, count: int) -> Array:
    return np.linalg.svd(matrix, compute_uv=False)[:count]


def residuals(x: Array) -> Array:
    wanted = np.exp(log_prob(x))
    wanted[np.arange(STATES), np.arange(STATES)] -= 1
    return wanted


def projected_share(x: Array) -> float:
    """Energy of the projection by least squares on the centred columns, over all."""
    columns, gradient = x[:TOKENS] - x[:TOKENS].mean(0), residuals(x).T
    kept = columns @ np.linalg.lstsq(columns, gradient, rcond=None)[0]
    return float((kept**2).sum() / (gradient**2).sum())


def plain_descent(x: Array) -> float:
    columns, gradient = x[:TOKENS] - x[:TOKENS].mean(0), residuals(x)
    achieved = gradient @ columns @ columns.T
    lengths = np.linalg.norm(gradient) * np.linalg.norm(achieved)
    return float((gradient * achieved).sum() / lengths)


def projected_energy(x: Array) -> float:
    weight, hidden = x[:TOKENS] - x[:TOKENS].mean(0), x[TOKENS:]
    _, _, axes = np.linalg.svd(weight, full_matrices=False)
    return float(((hidden @ axes[:6].T) ** 2).sum() / (hidden**2).sum())


def plain_shares(x: Array) -> Array:
    """Each dimension's part of the mean cosine of all pairs, from the pairs."""
    unit = x[TOKENS:] / np.linalg.norm(x[TOKENS:], axis=1, keepdims=True)
    pairs = unit.sum(0) ** 2 - (unit**2).sum(0)
    found: Array = pairs / (STATES * (STATES - 1))
    return found


def of_rows(x: Tensor) -> Tensor:
    hidden, weight, _ = parts(x.double())
    return metrics.log_prob_spectrum((hidden @ weight.T).log_softmax(1))[: WIDTH + 1]


def by_jacobians(x: Tensor) -> Tensor:
    hidden, weight, target = parts(x.double())
    return metrics.jacobian_retention(lambda h: (h @ weight.T).log_softmax(-1), hidden, target).share


ESTIMATORS = {
    "linear_log_prob_spectrum": (
        "NumPy SVD of log P",
        lambda x: leading(log_prob(x), WIDTH + 1),
        lambda x: metrics.linear_log_prob_spectrum(*parts(x)[:2]),
    ),
    "the same, double-centred": (
        "NumPy SVD of log P",
        lambda x: leading(centred_rows(x), WIDTH),
        lambda x: metrics.linear_log_prob_spectrum(*parts(x)[:2], centred=True),
    ),
    "log_prob_spectrum, by rows": (
        "NumPy SVD of log P",
        lambda x: leading(log_prob(x), WIDTH + 1),
        of_rows,
    ),
    "linear_retention": (
        "NumPy least squares",
        projected_share,
        lambda x: metrics.linear_retention(*parts(x)).share,
    ),
    "jacobian_retention": ("NumPy least squares", projected_share, by_jacobians),
    "linear_descent_cosine": (
        "NumPy formula",
        plain_descent,
        lambda x: metrics.linear_descent_cosine(*parts(x)).cosine,
    ),
    "readout_alignment, rank 6": (
        "NumPy projection",
        projected_energy,
        lambda x: metrics.readout_alignment(*parts(x)[:2], rank=6)["raw"],
    ),
    "output_value_spectra, whole": (
        "NumPy SVD of product",
        lambda x: leading(x[WIDTH : 2 * WIDTH] @ x[:WIDTH], WIDTH),
        lambda x: metrics.output_value_spectra(x[:WIDTH], x[WIDTH : 2 * WIDTH], HEADS)[0],
    ),
    "dimension_shares": ("all pairs", plain_shares, lambda x: metrics.dimension_shares(x[TOKENS:])),
}
