"""Student's t interval of a mean over seeds.

Design decision: the quantile comes from the distribution's finite series for whole degrees of
freedom (Abramowitz and Stegun 26.7.3 and 26.7.4), inverted by bisection: exact to rounding, and one
number does not bring a dependency with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of its t interval; needs two values, assumes independent normal ones."""
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least two values, got {count}")
    mean = math.fsum(values) / count
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    return mean, t_quantile(confidence, count - 1) * math.sqrt(variance / count)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| < t) = confidence at `freedom` degrees of freedom."""
    low, high = 0.0, math.pi / 2  # t = tan(angle) * sqrt(freedom): the whole half-line, bounded
    for _ in range(60):
        middle = (low + high) / 2
        if _central_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _central_probability(angle: float, freedom: int) -> float:
    """P(|T| < t), t = tan(angle) * sqrt(freedom)."""
    odd = freedom % 2
    cosine = math.cos(angle)
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    sine_part = math.sin(angle) * total
    return (angle + sine_part) * 2 / math.pi if odd else sine_part
