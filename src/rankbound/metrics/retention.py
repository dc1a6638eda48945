"""How much of what the loss asks of the logits can reach the hidden state.

With J = d log p / d hidden (V, D) at one state and g = p - y, the trunk receives J'g and no more. Modulo
constants (C = I - 11'/V, Cg = g) what it can receive is the share of g's energy in the span of CJ,

    rho(h, y) = g'CJ (J'CJ)^+ J'Cg / |g|^2,

in [0, 1]. It is a *squared* share. Its root is the share of the norm, and the two differ wildly: rho =
0.0156 is 0.125 of the norm, of which 0.992 = sqrt(1 - rho) is destroyed (Godey & Artzi 2026, r_destroyed).

What to hold it against:
- With p uniform rho is token y's leverage over 1 - 1/V, so its mean over all targets is rank(CJ) / (V - 1)
  for *any* matrix, trained or not. Report the ratio to D / V, not the share.
- g = p - y is mostly noise of the drawn label. Where the true p* is known, p - p* is the signal.
- At one state the rank is at most D for every head, so a mixture shows no gain here; what it adds is that
  the subspace differs by state: `jacobian_span` has that of several states beside that of one.

Design decisions:
- The projection comes from R of CJ = QR and the SVD of R, not from J'CJ, which is blind below 1e-8 of the
  largest value. A direction counts if its value exceeds 10 sqrt(max(V, D)) eps of the largest, eps that of
  float64 or of the dtype in which `log_prob` answers.
- J of a nonlinear head is taken forward, D directional derivatives of all rows at once: `log_prob` must map
  each row by itself. A derivative that is cut on purpose counts as cut. It gets the states in their own
  dtype, half precision as float32; all after it is float64. For all digits give float64 states and
  `copy.deepcopy(head).double().log_prob`.
- Rows that are not finite give NaN; a zero gradient keeps 0 of 0, which counts as a share of 0.

Shapes: N rows, V vocabulary, D hidden size, R = min(V, D).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.gradient import (
    LogProb,
    called_with,
    check_linear,
    check_wanted,
    gradient_at_logits,
    less_mean,
    linear_gradients,
    row_chunks,
)
from rankbound.metrics.rows import centred
from rankbound.metrics.singular import singular_values
from rankbound.metrics.spectrum import effective_rank, numerical_rank

JACOBIANS = 2**22  # entries of the Jacobians of a chunk of rows: 32 MiB in float64
DIRECTIONS = 64  # derivatives in one call, of which a mixture holds one for each of its components
TOLERANCES = ("1e-2", "1e-3", "1e-6")


@dataclass(frozen=True)
class Retained:
    """Energy of the gradient at the logits: what can reach the hidden state, `kept`, of all, `total`.

    (N,) by row, or summed; `share`, `root` and `relative` are of the sums.
    """

    kept: Tensor
    total: Tensor

    @property
    def share(self) -> Tensor:
        """Kept over total energy, in [0, 1]; 0 where there is no gradient."""
        kept, total = self.kept.sum(), self.total.sum()
        return torch.where(total == 0, 0.0, kept / total)

    @property
    def root(self) -> Tensor:
        """Share of the norm."""
        return self.share.sqrt()

    def relative(self, hidden_size: int, vocab_size: int) -> Tensor:
        """Share over hidden_size / vocab_size, which a random subspace keeps."""
        return self.share / (hidden_size / vocab_size)


def linear_retention(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    p_star: Tensor | None = None,
) -> Retained:
    """Retention by row of softmax(W h + b), in closed form: CJ = CW at every state.

    Args:
        hidden: (N, D), what the matrix multiplies.
        weight: (V, D).
        target: (N,) int64 tokens drawn, for g = p - y; or else
        p_star: (N, V) true probabilities, for g = p - p*.
        bias: (V,).

    Zero states give uniform p:

    >>> weight = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 5.0]])
    >>> linear_retention(torch.zeros(5, 2), weight, torch.arange(5)).share  # 2 / (5 - 1)
    tensor(0.5000, dtype=torch.float64)
    """
    check_linear(hidden, weight, bias)
    check_wanted(len(hidden), len(weight), target, p_star)
    weight_VD = centred(weight.detach().double())
    whitening_DR = _whitening(weight_VD, torch.float64)
    return _joined(
        _retained(gradient_nV @ weight_VD @ whitening_DR, gradient_nV)
        for gradient_nV in linear_gradients(hidden, weight_VD, target, bias, p_star)
    )


def jacobian_retention(
    log_prob: LogProb, hidden: Tensor, target: Tensor | None = None, *, p_star: Tensor | None = None
) -> Retained:
    """Retention by row of any head, from its Jacobians: for a sample of 128 to 256 tokens.

    A row costs D directional derivatives of `log_prob` and a QR of (V, D).

    Args:
        log_prob: (N, D) -> (N, V), each row by itself.
        hidden: (N, D).
        target: (N,) int64 tokens drawn, for g = p - y; or else
        p_star: (N, V) true probabilities, for g = p - p*.

    >>> weight = torch.randn(7, 2).double()
    >>> h, y = torch.randn(3, 2).double(), torch.tensor([0, 6, 3])
    >>> found = jacobian_retention(lambda rows: (rows @ weight.T).log_softmax(1), h, y)
    >>> torch.allclose(found.kept, linear_retention(h, weight, y).kept)
    True
    """
    hidden, vocab_size = called_with(log_prob, hidden)
    check_wanted(len(hidden), vocab_size, target, p_star)

    def of_chunk(rows: slice, jacobian_nVD: Tensor) -> Retained:
        with torch.no_grad():
            log_prob_nV = log_prob(hidden[rows])
        gradient_nV = gradient_at_logits(log_prob_nV, target, p_star, rows)
        received_n1D = gradient_nV[:, None] @ jacobian_nVD
        kept_nR = (received_n1D @ _whitening(jacobian_nVD, log_prob_nV.dtype)).squeeze(1)
        return _retained(kept_nR, gradient_nV)

    return _joined(of_chunk(*part) for part in _centred_jacobians(log_prob, hidden, vocab_size))


@dataclass(frozen=True)
class Span:
    """Singular values of d log p / d hidden, row-centred: `batch` (min(N D, V),), `state` (N, R)."""

    batch: Tensor
    state: Tensor

    def summary(self) -> dict[str, float]:
        """Ranks by name: `batch_effective_rank`, `batch_numerical_rank_T`; `state_...` are means over N."""
        found = {}
        for name, spectra in (("batch", self.batch[None]), ("state", self.state)):
            found[f"{name}_effective_rank"] = _mean([effective_rank(values) for values in spectra])
            for tolerance in TOLERANCES:
                ranks = [numerical_rank(values, float(tolerance)) for values in spectra]
                found[f"{name}_numerical_rank_{tolerance}"] = _mean(ranks)
        return found


def jacobian_span(log_prob: LogProb, hidden: Tensor) -> Span:
    """Spectra of the Jacobians of several states stacked, (N D, V), and of each: do the subspaces differ?

    Of a linear head all are CW's, the stack's times sqrt(N). Holds the stack in float64 and decomposes it,
    so a few states do: 16 at D = 256 and V = 8,192 are 268 MB. The rank at one state is `state`'s.

    Args:
        log_prob: (N, D) -> (N, V), each row by itself.
        hidden: (N, D).

    >>> weight = torch.randn(9, 2).double()
    >>> found = jacobian_span(lambda rows: (rows @ weight.T).log_softmax(1), torch.randn(4, 2).double())
    >>> found.summary()["batch_numerical_rank_1e-6"]
    2.0
    """
    hidden, vocab_size = called_with(log_prob, hidden)
    parts = [jacobian for _, jacobian in _centred_jacobians(log_prob, hidden, vocab_size)]
    jacobian_NVD = torch.cat(parts)
    each = torch.stack([singular_values(jacobian_VD) for jacobian_VD in jacobian_NVD])
    return Span(singular_values(jacobian_NVD.mT.flatten(0, 1)), each)


class Retention(Metric):
    """Retention over batches: sums of kept and total energy.

    Args:
        hidden_size: D.
        vocab_size: V.

    >>> metric = Retention(hidden_size=2, vocab_size=8)
    >>> metric.update(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 2.0]))
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'share': 0.25, 'root': 0.5, 'relative': 1.0}
    """

    full_state_update = False
    kept: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        self.add_state("kept", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, kept: Tensor, total: Tensor) -> None:
        """Add rows: kept (N,) and total (N,) energy, as `Retained` has them."""
        if kept.shape != total.shape:
            raise InputError(f"kept has shape {tuple(kept.shape)} and total {tuple(total.shape)}")
        self.kept += kept.sum(dtype=torch.float64)
        self.total += total.sum(dtype=torch.float64)
        self.count += kept.numel()

    def compute(self) -> dict[str, Tensor]:
        """`share` of the energy, its `root`, and `relative` to hidden_size / vocab_size."""
        if not self.count:
            raise InputError("retention has no rows yet; call update first")
        retained = Retained(self.kept, self.total)
        relative = retained.relative(self.hidden_size, self.vocab_size)
        return {"share": retained.share, "root": retained.root, "relative": relative}


def _centred_jacobians(
    log_prob: LogProb, hidden: Tensor, vocab_size: int
) -> Iterator[tuple[slice, Tensor]]:
    """CJ (n, V, D) float64 of a few rows at a time, with which rows they are."""
    width = hidden.shape[1]
    directions_DD = torch.eye(width, dtype=hidden.dtype, device=hidden.device)
    for rows in row_chunks(len(hidden), vocab_size * width, JACOBIANS):
        state_nD = hidden[rows]

        def along(direction_D: Tensor, state_nD: Tensor = state_nD) -> Tensor:
            tangent_nD = direction_D.expand_as(state_nD)
            derivative_nV: Tensor = torch.func.jvp(log_prob, (state_nD,), (tangent_nD,))[1]
            return derivative_nV

        with torch.no_grad():
            jacobian_nVD = torch.func.vmap(along, out_dims=-1, chunk_size=DIRECTIONS)(directions_DD)
        yield rows, less_mean(jacobian_nVD.double())


def _whitening(matrix: Tensor, taken_in: torch.dtype) -> Tensor:
    """(.., D, R) for A (.., V, D): |x' whitening| is the length of g's projection on A's span, x = A'g.

    With A = QUSV' that is VS^+. Zeros where A is not finite, which LAPACK refuses; x is NaN there.
    """
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    triangle = torch.linalg.qr(torch.where(finite, matrix, 0.0), mode="r").R
    _, values, right = torch.linalg.svd(triangle, full_matrices=False)
    tolerance = 10 * max(matrix.shape[-2:]) ** 0.5 * torch.finfo(taken_in).eps
    counts = values > tolerance * values[..., :1]
    inverse = torch.where(counts, 1 / values, 0.0)
    whitening: Tensor = right.mT * inverse[..., None, :]
    return whitening


def _retained(projection_nR: Tensor, gradient_nV: Tensor) -> Retained:
    total_n = gradient_nV.square().sum(1)
    return Retained(projection_nR.square().sum(1).minimum(total_n), total_n)


def _joined(parts: Iterator[Retained]) -> Retained:
    kept, total = zip(*((part.kept, part.total) for part in parts), strict=True)
    return Retained(torch.cat(kept), torch.cat(total))


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
