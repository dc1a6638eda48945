"""The numerical problem behind a floor: softmax of a low-rank matrix against known distributions.

    excess(A, U, b) = sum_c pi_c KL(P_c, softmax(U a_c + b))

- Variables are scaled: sqrt(pi_c) a_c, sqrt(q_v) u_v, sqrt(q_v) b_v, with q the tokens' frequencies; under
  Zipf's weights L-BFGS crawls without.
- A state on the sphere is v / |v|; v starts at length sqrt(pi_c), which scales its gradient alike.

Shapes: C contexts, V vocabulary, D dimensions of the states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]
from scipy.special import xlogy  # type: ignore[import-untyped]

Array = NDArray[np.float64]

_MEMORY, _LATE = 20, 50
_TOLERANCE = 1e-10  # of a step's decrease


@dataclass(frozen=True)
class Point:
    """Scaled variables: states (C, D), tokens (V, D), bias (V,) or none."""

    states: Array
    tokens: Array
    bias: Array | None
    on_sphere: bool = False

    def flat(self) -> Array:
        parts = [self.states, self.tokens, *([] if self.bias is None else [self.bias])]
        return np.concatenate([part.ravel() for part in parts])

    def at(self, flat: Array) -> Point:
        """The point of the same kind with these numbers."""
        ends = [self.states.size, self.states.size + self.tokens.size]
        states, tokens, bias = np.split(flat, ends)
        return replace(
            self,
            states=states.reshape(self.states.shape),
            tokens=tokens.reshape(self.tokens.shape),
            bias=None if self.bias is None else bias,
        )


@dataclass(frozen=True)
class Descent:
    """Where L-BFGS came to rest, its excess, how much the last iterations gained, and their number."""

    point: Point
    excess: float
    late_decrease: float
    iterations: int


class Problem:
    """Excess of low-rank logits over known distributions.

    Args:
        weight_C: pi, how often each context comes, summing to 1.
        log_prob_CV: log P, exact.
    """

    def __init__(self, weight_C: Array, log_prob_CV: Array) -> None:
        prob_CV = np.exp(log_prob_CV)
        self._weight_C1 = weight_C[:, None]
        self._log_prob_CV = log_prob_CV
        self._joint_CV = self._weight_C1 * prob_CV
        self._share_V = self._joint_CV.sum(0)
        self._context_C1, self._token_V1 = np.sqrt(self._weight_C1), np.sqrt(self._share_V)[:, None]
        self._entropy = -float((weight_C * xlogy(prob_CV, prob_CV).sum(1)).sum())

    def excess(self, point: Point) -> float:
        """Nats a token over the entropy."""
        return self._value_and_gradient(point)[0]

    def weighted_svd(self, rank: int, bias: bool) -> Point:
        """The best second-order approximation of log P: its rows centred, weighted, and cut at `rank`."""
        left_CV, scaled_bias_V = self._weighted(bias)
        states, values, tokens = np.linalg.svd(left_CV, full_matrices=False)
        root = np.sqrt(values[:rank])
        return Point(
            _padded(states[:, :rank] * root, rank), _padded(tokens[:rank].T * root, rank), scaled_bias_V
        )

    def random_subspace(self, rng: np.random.Generator, rank: int, bias: bool) -> Point:
        """The same matrix, projected on a random subspace of its columns instead of the best."""
        left_CV, scaled_bias_V = self._weighted(bias)
        states, _ = np.linalg.qr(left_CV @ rng.standard_normal((left_CV.shape[1], rank)))
        tokens = left_CV.T @ states
        scale = max(float(np.linalg.norm(tokens)) / rank**0.5, 1e-12) ** 0.5
        return Point(_padded(states * scale, rank), _padded(tokens / scale, rank), scaled_bias_V)

    def _weighted(self, bias: bool) -> tuple[Array, Array | None]:
        """log P, scaled, rows centred, less the mean row where a bias takes it; and that bias, scaled."""
        centred_CV = self._log_prob_CV - self._log_prob_CV @ self._share_V[:, None]
        mean_V = self._weight_C1[:, 0] @ centred_CV
        left_CV = (centred_CV - mean_V if bias else centred_CV) * self._context_C1 * self._token_V1[:, 0]
        return left_CV, mean_V * self._token_V1[:, 0] if bias else None

    def lifted(self, free: Point, bias: bool) -> Point:
        """A free point with a bias, as a point on the sphere of one dimension more.

        h = (1, a) / sqrt(1 + |a|^2) and W = [b, U] write (b + U a) / sqrt(1 + |a|^2); where the class has a
        bias it stays one. States are centred and of mean square 1 first: shorter ones would come nearer
        b + U a, but from there L-BFGS hardly moves.
        """
        assert free.bias is not None
        states_CD, tokens_VD = free.states / self._context_C1, free.tokens / self._token_V1
        mean_D = (self._weight_C1 * states_CD).sum(0)
        bias_V1 = (free.bias / self._token_V1[:, 0] + tokens_VD @ mean_D)[:, None]
        states_CD = states_CD - mean_D
        scale = max(float(np.sqrt((self._weight_C1 * states_CD**2).sum())), 1e-12)
        sphere_CD = np.hstack([np.ones_like(self._context_C1), states_CD / scale])
        sphere_CD /= np.linalg.norm(sphere_CD, axis=1, keepdims=True)
        first_V1 = np.zeros_like(bias_V1) if bias else bias_V1
        return Point(
            states=sphere_CD * self._context_C1,
            tokens=np.hstack([first_V1, tokens_VD * scale]) * self._token_V1,
            bias=(bias_V1 * self._token_V1)[:, 0] if bias else None,
            on_sphere=True,
        )

    def random_sphere(self, rng: np.random.Generator, rank: int, bias: bool) -> Point:
        """Random states on the sphere, and random tokens."""
        states_CD = rng.standard_normal((len(self._weight_C1), rank)) / rank**0.5
        return Point(
            states=states_CD * self._context_C1,
            tokens=rng.standard_normal((len(self._share_V), rank)) * self._token_V1,
            bias=np.log(self._share_V) * self._token_V1[:, 0] if bias else None,
            on_sphere=True,
        )

    def descend(self, start: Point, iterations: int) -> Descent:
        """L-BFGS from `start`."""
        values: list[float] = []

        def objective(flat: Array) -> tuple[float, Array]:
            value, gradient = self._value_and_gradient(start.at(flat))
            return value, gradient.flat()

        def keep(intermediate_result: OptimizeResult) -> None:
            values.append(float(intermediate_result.fun))

        options = {"maxcor": _MEMORY, "maxiter": iterations, "maxfun": 2 * iterations, "gtol": 1e-9}
        options["ftol"] = _TOLERANCE
        found = minimize(
            objective, start.flat(), jac=True, method="L-BFGS-B", callback=keep, options=options
        )
        late = values[-min(_LATE, len(values) // 4) - 1 :] or [float(found.fun)]
        return Descent(start.at(found.x), float(found.fun), late[0] - late[-1], len(values))

    def _value_and_gradient(self, point: Point) -> tuple[float, Point]:
        tokens_VD = point.tokens / self._token_V1
        if point.on_sphere:
            length_C1 = np.linalg.norm(point.states, axis=1, keepdims=True)
            states_CD = point.states / length_C1
        else:
            states_CD = point.states / self._context_C1
        logits_CV = states_CD @ tokens_VD.T
        if point.bias is not None:
            logits_CV += point.bias / self._token_V1[:, 0]
        largest_C1 = logits_CV.max(1, keepdims=True)
        aimed = float(np.vdot(self._joint_CV, logits_CV))
        logits_CV -= largest_C1
        prob_CV = np.exp(logits_CV, out=logits_CV)
        total_C1 = prob_CV.sum(1, keepdims=True)
        normalizer = float((self._weight_C1 * (np.log(total_C1) + largest_C1)).sum())
        prob_CV *= self._weight_C1 / total_C1
        prob_CV -= self._joint_CV
        d_states_CD = prob_CV @ tokens_VD
        if point.on_sphere:
            radial_C1 = (d_states_CD * states_CD).sum(1, keepdims=True)
            d_states_CD = (d_states_CD - radial_C1 * states_CD) / length_C1
        else:
            d_states_CD /= self._context_C1
        gradient = replace(
            point,
            states=d_states_CD,
            tokens=(prob_CV.T @ states_CD) / self._token_V1,
            bias=None if point.bias is None else prob_CV.sum(0) / self._token_V1[:, 0],
        )
        return normalizer - aimed - self._entropy, gradient


def _padded(columns: Array, rank: int) -> Array:
    """With zero columns up to `rank`."""
    return np.pad(columns, ((0, 0), (0, rank - columns.shape[1])))
