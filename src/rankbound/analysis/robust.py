"""Least squares with errors that hold where noise is unequal or shared in clusters, and clusters are few.

Design decisions:
- CR2, which takes the bias out of the residuals of a cluster (HC2 where a cluster is one row), and the
  degrees of freedom of Bell and McCaffrey (2002): those of HC3 or CR1 promise too much with three seeds.
- A coefficient that a single cluster decides, as a level that only one cell has, leaves no residual to
  judge it by, and has no interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rankbound.analysis.intervals import Estimate, Floats

#: Eigenvalues and weights below this count as zero.
SINGULAR = 1e-9


def robust_estimates(
    design: Floats, values: Floats, clusters: NDArray[np.integer], confidence: float = 0.95
) -> list[Estimate]:
    """Least squares with CR2 errors and Bell and McCaffrey's degrees of freedom.

    Args:
        design: (rows, coefficients), of full column rank.
        values: (rows,).
        clusters: (rows,), rows of one number may be dependent; all different gives HC2.
        confidence: Of the intervals.

    Returns:
        One a coefficient; without an error where it hangs on a single cluster.
    """
    size = np.abs(design).max(0)
    design = design / size
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    residuals = values - design @ coefficients
    hat = design @ inverse @ design.T
    scores, influence, decided = [], [], np.zeros(design.shape[1], dtype=bool)
    for cluster in np.unique(clusters):
        own = clusters == cluster
        eigenvalues, vectors = np.linalg.eigh(np.eye(own.sum()) - hat[np.ix_(own, own)])
        kept = eigenvalues > SINGULAR
        weights = design[own] @ inverse  # what this cluster's rows do to each coefficient
        decided |= np.abs(vectors[:, ~kept].T @ weights).max(axis=0, initial=0) > SINGULAR
        root = vectors[:, kept] / np.sqrt(eigenvalues[kept]) @ vectors[:, kept].T
        scores.append((root @ weights).T @ residuals[own])
        influence.append((np.eye(len(values)) - hat)[:, own] @ root @ weights)
    errors = np.sqrt((np.array(scores) ** 2).sum(0))
    found = []
    for j, (coefficient, error) in enumerate(zip(coefficients / size, errors / size, strict=True)):
        each = np.stack([of_cluster[:, j] for of_cluster in influence])  # (clusters, rows)
        gram = each @ each.T
        scale = float((gram**2).sum())
        known = not decided[j] and scale > 0 and len(values) > design.shape[1]
        freedom = float(np.trace(gram)) ** 2 / scale if known else 0.0
        found.append(Estimate(float(coefficient), float(error) if known else math.nan, freedom, confidence))
    return found
