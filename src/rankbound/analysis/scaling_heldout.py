"""What a scaling law says of points that it was not fitted to: held-out error, and the gap of small models.

- Held-out error decides between forms where AICc may not: it knows that rows of one run go together, since
  whole groups are left out, and it tells interpolation (folds) from extrapolation (largest or smallest).
- The gap is the one by which small models were said to saturate: a law is fitted to wide models and read at
  the sizes of narrow ones, and their final and best checkpoints are so many percent above it. Both are set
  against the law at the final checkpoint: what the whole budget should have bought. The interval holds the
  noise of the fit and of the narrow runs; that the law may bend below the wide models, it does not. Its
  held-out error on the smallest of the wide ones is the measure for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankbound.analysis.scaling import DELTA, columns, fit_scaling
from rankbound.analysis.scaling_forms import Floats, Form
from rankbound.analysis.scaling_intervals import Bootstrap, noise
from rankbound.errors import InputError

Parts = NDArray[np.intp]


@dataclass(frozen=True)
class HeldOut:
    """Log residuals, measured over predicted, of rows that the fit did not see.

    - `rows`, `log_residuals`: (H,) each, in the order of rows
    - `fits`: how many fits they come from
    """

    rows: Parts
    log_residuals: Floats
    fits: int

    @property
    def error(self) -> float:
        """Root mean square."""
        return float(np.sqrt((self.log_residuals**2).mean()))

    @property
    def bias(self) -> float:
        """Mean; above 0 where loss is worse than predicted."""
        return float(self.log_residuals.mean())

    def __str__(self) -> str:
        worst = np.abs(self.log_residuals).max()
        off = f"off by {self.error:.2%} (mean {self.bias:+.2%}, worst {worst:.2%})"
        return f"{off} on {len(self.rows)} rows held out"


def folds(groups: ArrayLike, count: int, seed: int = 0) -> Parts:
    """Parts 0 to `count` - 1 for each row, (N,), whole groups (runs, sizes) in one part."""
    labels, index = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= count <= len(labels):
        raise InputError(f"{count} folds of {len(labels)} groups: ask for 2 to {len(labels)}")
    part = np.random.default_rng(seed).permutation(len(labels)) % count
    return np.asarray(part[index])


def largest(values: ArrayLike, count: int) -> Parts:
    """Rows with the `count` largest distinct values as part 0, the others -1: never held out."""
    array = np.asarray(values, dtype=np.float64)
    distinct = np.unique(array)
    if not 1 <= count < len(distinct):
        raise InputError(f"{count} of {len(distinct)} sizes held out: some must be left, and some held out")
    return np.where(array >= distinct[-count], 0, -1)


def smallest(values: ArrayLike, count: int) -> Parts:
    """Rows with the `count` smallest distinct values as part 0, the others -1."""
    return largest(-np.asarray(values, dtype=np.float64), count)


def held_out(
    form: Form,
    x: Mapping[str, ArrayLike],
    loss: ArrayLike,
    parts: ArrayLike,
    *,
    delta: float = DELTA,
    fixed: Mapping[str, float] | None = None,
) -> HeldOut:
    """Fit without each part and predict it.

    Args:
        form: See `fit_scaling`, as for `x`, `loss`, `delta` and `fixed`.
        x: Variables by name, (N,) each.
        loss: (N,), in nats.
        parts: (N,), from `folds`, `largest` or `smallest`; rows of -1 are never held out.
        delta: Of Huber's loss.
        fixed: Parameters that are given.

    Raises:
        InputError: As `fit_scaling`, for what is left without a part; parts of another length.
    """
    values, measured = columns(form, x), np.asarray(loss, dtype=np.float64)
    part = np.asarray(parts)
    if part.shape != measured.shape:
        raise InputError(
            f"parts has shape {part.shape} and loss {measured.shape}: name the part of each row"
        )
    residual, names = np.full(len(part), np.nan), np.unique(part[part >= 0])
    for name in names:
        out = part == name
        rest = {variable: column[~out] for variable, column in values.items()}
        fit = fit_scaling(form, rest, measured[~out], delta=delta, fixed=fixed)
        there = {variable: column[out] for variable, column in values.items()}
        residual[out] = np.log(measured[out] / fit.predict(there))
    rows = np.flatnonzero(part >= 0)
    if not len(rows):
        raise InputError("no row is held out: parts are all -1")
    return HeldOut(rows, residual[rows], len(names))


@dataclass(frozen=True)
class Gap:
    """How far narrow models are above a law of wide ones, in percent of its loss.

    - `runs`: (G,), names; `final`, `best`: (G,), of each; `final_draws`, `best_draws`: (R, G)
    """

    runs: NDArray[np.str_]
    final: Floats
    best: Floats
    final_draws: Floats
    best_draws: Floats
    law: Bootstrap

    def interval(self, checkpoint: str = "final", level: float = 0.95) -> tuple[float, float]:
        """Of the mean over runs, of the "final" or "best" checkpoint."""
        draws = self.final_draws if checkpoint == "final" else self.best_draws
        low, high = self.law.interval_of(draws.mean(axis=1), level)
        return float(low), float(high)

    def __str__(self) -> str:
        said = []
        for checkpoint, values in (("final", self.final), ("best", self.best)):
            low, high = self.interval(checkpoint)
            said.append(
                f"{checkpoint} checkpoints {values.mean():+.1f} % (95 % interval {low:+.1f} to {high:+.1f})"
            )
        return f"{' and '.join(said)} from the law of wider models, mean of {len(self.runs)} runs"


def gap(
    law: Bootstrap,
    x: Mapping[str, ArrayLike],
    loss: ArrayLike,
    runs: ArrayLike,
    step: ArrayLike,
    seed: int = 0,
) -> Gap:
    """Extrapolate a law of wide models to narrow ones.

    Args:
        law: Of the wide models: `bootstrap(fit_scaling(...), ...)`.
        x: The law's variables of the narrow models' checkpoints, (N,) each.
        loss: (N,), in nats.
        runs: The run of each checkpoint, (N,).
        step: The order of a run's checkpoints, (N,); tokens will do.
        seed: Of the narrow runs' noise.

    Raises:
        InputError: Columns of unequal length, or values that are not positive.
    """
    form = law.fit.form
    values, measured = columns(form, {**x, "loss": loss}), np.asarray(loss, dtype=np.float64)
    names, order = np.asarray(runs).astype(str), np.asarray(step, dtype=np.float64)
    lengths = {len(column) for column in (*values.values(), measured, names, order)}
    if len(lengths) != 1 or not len(measured):
        raise InputError(f"columns of {sorted(lengths)} rows: pass one value a checkpoint")
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise InputError("loss has values that are not positive numbers: drop those checkpoints")
    found = np.unique(names)
    own = [np.flatnonzero(names == name) for name in found]
    last = np.array([rows[order[rows].argmax()] for rows in own])
    reached = {"final": measured[last], "best": np.array([measured[rows].min() for rows in own])}
    there = {variable: column[last] for variable, column in values.items()}
    predicted, drawn = law.fit.predict(there), law.predict(there)
    luck = np.exp(_luck(law, drawn.shape, np.random.default_rng(seed)))
    final, best = (100 * (reached[name] / predicted - 1) for name in ("final", "best"))
    final_draws, best_draws = (100 * (reached[name] * luck / drawn - 1) for name in ("final", "best"))
    return Gap(found, final, best, final_draws, best_draws, law)


def _luck(law: Bootstrap, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Noise of single runs as the law's fit shows it; rows of one run are too alike to leave one out."""
    if law.method != "runs":
        return noise(law.fit, shape, rng, normal=law.method == "parametric")
    return np.asarray(rng.choice(law.fit.log_residuals, size=shape) * np.sqrt(law.units / law.freedom))
