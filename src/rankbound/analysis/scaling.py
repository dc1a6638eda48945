"""Scaling laws: a form's constants from measured losses, by Huber's loss of log residuals.

Huber's delta is in log loss, 1e-3 as in the literature: far below the noise of most runs, so that the fit
is all but one of least absolute errors and a bad run has no more say than a good one. That costs precision
where noise is mild; a delta of the noise's size or larger makes it least squares.

AICc uses the likelihood whose maximum the Huber fit is: a density normal within delta and exponential
beyond, its scale fitted too. It counts every row as independent, which checkpoints of one run are not;
between forms for curves, held-out error decides (`scaling_heldout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special  # type: ignore[import-untyped]

from rankbound.analysis.scaling_forms import Floats, Form
from rankbound.analysis.scaling_minimise import Design, least, starts
from rankbound.errors import InputError, nearest

DELTA = 1e-3
BEST = 8  # of the fine grid's points, from which descents start, beside all of the coarse one's
FINE = {0: 1, 1: 60, 2: 16, 3: 8}  # points along each free rate
COARSE = {0: 1, 1: 6, 2: 4, 3: 3}
NEGLIGIBLE = 12.0  # in log loss: the least that a coefficient may be, below the loss


@dataclass(frozen=True)
class Problem:
    """A form and the points that it is fitted to, in the minimiser's coordinates.

    `offset`, `unit`: (M,), of the terms' features.
    """

    form: Form
    x: dict[str, Floats]
    log_loss: Floats
    fixed: dict[str, float]
    offset: Floats
    unit: Floats
    design: Design

    @property
    def free(self) -> int:
        """How many parameters are fitted."""
        return len(self.form.parameters) - len(self.fixed)

    def starts(self, points: Mapping[int, int]) -> Floats:
        """Where to begin, (S, K + M), the best first; `points`: along each rate, by how many are free."""
        rates = int((~self.design.held[self.design.coefficients :]).sum())
        return starts(self.design, self.log_loss, np.ones_like(self.log_loss), points.get(rates, 3))

    def parameters(self, at: Floats) -> dict[str, Floats]:
        """Coordinates, (P, K + M), as parameters, (P,) each; a term below notice has a coefficient of 0."""
        K, M = self.design.coefficients, self.design.rates
        rate = at[:, K:] / self.unit
        log_coefficient = at[:, :K].copy()
        log_coefficient[:, K - M :] += rate * self.offset
        coefficient = np.where(self.design.none(at), 0, np.exp(log_coefficient))
        values = np.concatenate([coefficient, rate], axis=1)
        return dict(zip(self.form.parameters, values.T, strict=True)) | {
            name: np.full(len(at), value) for name, value in self.fixed.items()
        }


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law.

    - `parameters`: by the form's names, in nats and the variables' own units
    - `delta`, `objective`: of Huber's loss, the sum over rows
    - `log_residuals`: (N,), log of measured over predicted loss: times 100, about percent
    - `aicc`: lower is better, between forms fitted to the same rows with the same delta; NaN where there
      are too few rows for it
    - `at_bound`: parameters that ran to the edge of their range: not determined by these points
    """

    form: Form
    parameters: dict[str, float]
    delta: float
    objective: float
    log_residuals: Floats
    aicc: float
    at_bound: tuple[str, ...]
    problem: Problem = field(repr=False)
    at: Floats = field(repr=False)

    def predict(self, x: Mapping[str, ArrayLike]) -> Floats:
        """Loss in nats at points: variables by name, (N,) each, to (N,)."""
        return self.form.loss(self.parameters, columns(self.form, x))

    @property
    def error(self) -> float:
        """Root mean square of the log residuals, corrected for the fitted parameters."""
        spare = len(self.log_residuals) - self.problem.free
        return float(np.sqrt((self.log_residuals**2).sum() / spare))

    def __str__(self) -> str:
        law = self.form.text({name: f"{value:.4g}" for name, value in self.parameters.items()})
        edge = f"; {', '.join(self.at_bound)} not determined by these points" if self.at_bound else ""
        return f"{law}, fitted to {len(self.log_residuals)} points within {self.error:.2%}{edge}"


def fit_scaling(
    form: Form,
    x: Mapping[str, ArrayLike],
    loss: ArrayLike,
    *,
    delta: float = DELTA,
    fixed: Mapping[str, float] | None = None,
) -> ScalingFit:
    """Fit a form to points.

    Args:
        form: For example `SizeTokens()`.
        x: The form's variables by name, (N,) each, positive.
        loss: (N,), in nats, positive.
        delta: Of Huber's loss, in log loss.
        fixed: Parameters that are given, not fitted.

    Raises:
        InputError: A variable or parameter that the form does not have, values that are not positive
            and finite, lengths that differ, or too few points or distinct values for the form.
    """
    if not delta > 0:
        raise InputError(f"delta is {delta}: Huber's loss needs a positive one")
    problem = _problem(form, columns(form, x), loss, dict(fixed or {}))
    begin = np.concatenate([problem.starts(FINE)[:BEST], problem.starts(COARSE)])
    at, objective = least(problem.design, problem.log_loss, begin, delta)
    return ScalingFit(
        form=form,
        parameters={name: float(values[0]) for name, values in problem.parameters(at[None]).items()},
        delta=delta,
        objective=objective,
        log_residuals=problem.log_loss - problem.design.log_loss(at[None])[0][0],
        aicc=_aicc(objective, delta, len(problem.log_loss), problem.free + 1),
        at_bound=_at_bound(problem, at),
        problem=problem,
        at=at,
    )


def columns(form: Form, x: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """The form's variables as arrays, checked."""
    for name in form.variables:
        if name not in x:
            raise InputError(
                f"the form {form} needs {name}, which is not among {', '.join(x) or 'nothing'}"
            )
    return {name: _positive(name, x[name]) for name in form.variables}


def _positive(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name} has {array.ndim} dimensions: pass one value a row")
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(bad):
        raise InputError(
            f"{name} is {array[bad[0]]:g} in row {bad[0]}: drop rows without a positive number"
        )
    return array


def _problem(form: Form, x: dict[str, Floats], loss: ArrayLike, fixed: dict[str, float]) -> Problem:
    log_loss = np.log(_positive("loss", loss))
    _check(form, x, log_loss, fixed)
    K, M = len(form.coefficients), len(form.terms)
    features, offset, unit = np.zeros((len(log_loss), K)), np.zeros(M), np.ones(M)
    lower = np.full(K + M, log_loss.min() - NEGLIGIBLE)
    upper = np.full(K + M, log_loss.max() + 2 * NEGLIGIBLE)
    for k, term in enumerate(form.terms):
        values = x[term.variable]
        feature, unit[k] = term.feature(values), term.unit(values)
        # a held coefficient is what it is only where features are not shifted
        offset[k] = 0.0 if term.coefficient in fixed else feature.mean()
        features[:, K - M + k] = (feature - offset[k]) / unit[k]
        lower[K + k], upper[K + k] = term.rates
    for name, value in fixed.items():
        at = form.parameters.index(name)
        lower[at] = upper[at] = np.log(value) if at < K else value * unit[at - K]
    return Problem(form, x, log_loss, fixed, offset, unit, Design(features, lower, upper))


def _check(form: Form, x: Mapping[str, Floats], log_loss: Floats, fixed: Mapping[str, float]) -> None:
    for name, values in x.items():
        if len(values) != len(log_loss):
            raise InputError(
                f"{name} has {len(values)} rows and loss {len(log_loss)}: pass one each a point"
            )
    for name, number in fixed.items():
        if name not in form.parameters:
            raise InputError(f"{form} has no {name}{nearest(name, form.parameters)}")
        if not (np.isfinite(number) and number > 0):
            raise InputError(f"{name} is fixed at {number:g}: give a positive number")
    free = len(form.parameters) - len(fixed)
    if len(log_loss) <= free:
        raise InputError(
            f"{len(log_loss)} points for {free} parameters of {form}: measure {free + 1} or more"
        )
    for term in form.terms:
        needed = len({term.coefficient, term.rate} - set(fixed)) + form.floor * ("E" not in fixed)
        distinct = len(np.unique(x[term.variable]))
        if distinct < needed:
            raise InputError(
                f"{form} needs {needed} values of {term.variable}, not {distinct}: measure more"
            )


def _at_bound(problem: Problem, at: Floats) -> tuple[str, ...]:
    """What is at an edge; a coefficient of 0 is an answer, not an edge."""
    edge = problem.design.edge(at[None])[0]
    edge[: problem.design.coefficients] &= ~problem.design.none(at[None])[0]
    return tuple(str(name) for name in np.array(problem.form.parameters)[edge])


def _aicc(objective: float, delta: float, rows: int, parameters: int) -> float:
    """-2 log likelihood at its best scale, and the corrected penalty."""
    if rows - parameters - 1 <= 0:
        return float("nan")
    if objective == 0:  # points without noise
        return float("-inf")

    def twice_negative(log_scale: float) -> float:
        scale = float(np.exp(log_scale))
        return 2 * objective / scale + 2 * rows * _log_normaliser(scale, delta)

    mean = objective / rows
    # between the exponential's best scale, mean, and the normal's, 2 mean
    best = optimize.minimize_scalar(
        twice_negative, bounds=(np.log(mean) - 1, np.log(mean) + 2), method="bounded"
    )
    penalty = 2 * parameters + 2 * parameters * (parameters + 1) / (rows - parameters - 1)
    return float(best.fun) + penalty


def _log_normaliser(scale: float, delta: float) -> float:
    """log of the integral of exp(-huber(r) / scale) over r."""
    within = 0.5 * np.log(2 * np.pi * scale) + np.log(special.erf(delta / np.sqrt(2 * scale)))
    beyond = np.log(2 * scale / delta) - delta**2 / (2 * scale)
    return float(np.logaddexp(within, beyond))
