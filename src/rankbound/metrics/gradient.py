"""The gradient at the head: what the loss asks of the logits, and what a step through the state gives.

Design decisions:
- g = p - y, or p - p* where the true distribution is known, is taken from log-probabilities, so that it
  means the same for a mixture, which has no logits: every distribution is the softmax of its own.
- Wanted is -g. Achieved is the first-order change of log p, row-centred, by a step along -d loss/d hidden
  with all weights held still: -C J J'g, J = d log p / d hidden (V, D), C = I - 11'/V. With the head's own
  update the angle would depend on two learning rates. A derivative cut on purpose counts as cut.
- The same step is projected on what it can reach in metrics/retention.py, which takes g from here.
- A callable gets the states in their own dtype, half precision as float32; all after it is float64. For all
  digits give float64 states and `copy.deepcopy(head).double().log_prob`.
- Rows that are not finite give NaN; a gradient of zero has cosine 0.

Shapes: N rows, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.rows import centred
from rankbound.metrics.singular import singular_values
from rankbound.metrics.spectrum import proportional_effective_rank

LogProb = Callable[[Tensor], Tensor]
CHUNK = 2**22  # entries of a chunk of probabilities: 32 MiB in float64
CALLED = 2**19  # the same where a head is called: a mixture holds many times as much, and its graph


@dataclass(frozen=True)
class Descent:
    """Wanted against achieved change of log p, as inner products by row (N,), or summed over rows.

    `inner` <wanted, achieved>, `wanted` and `achieved` the squared norms; `cosine` is of the sums.
    """

    inner: Tensor
    wanted: Tensor
    achieved: Tensor

    @property
    def cosine(self) -> Tensor:
        """Of the stacked (N, V) matrices, in [0, 1]; 0 where one of them is zero."""
        norms = self.wanted.sum().sqrt() * self.achieved.sum().sqrt()
        return torch.where(norms == 0, 0.0, self.inner.sum() / norms)


def descent_cosine(
    log_prob: LogProb, hidden: Tensor, target: Tensor | None = None, *, p_star: Tensor | None = None
) -> Descent:
    """cos(-g, -C J J'g) of any head: one backward and one forward derivative of all rows at once.

    Args:
        log_prob: (N, D) -> (N, V), each row by itself.
        hidden: (N, D).
        target: (N,) int64 tokens drawn, for g = p - y; or else
        p_star: (N, V) true probabilities, for g = p - p*.

    >>> found = descent_cosine(lambda h: h.log_softmax(1), torch.zeros(1, 3), torch.tensor([0]))
    >>> round(found.cosine.item(), 6)  # J J' = C: what is wanted is achieved
    1.0
    """
    hidden, vocab_size = called_with(log_prob, hidden)
    check_wanted(len(hidden), vocab_size, target, p_star)
    parts = []
    for rows in row_chunks(len(hidden), vocab_size, CALLED):
        with torch.inference_mode(False), torch.enable_grad():
            state_nD = hidden[rows].clone().requires_grad_()
            log_prob_nV = log_prob(state_nD)
            gradient_nV = gradient_at_logits(log_prob_nV, target, p_star, rows)
            (step_nD,) = torch.autograd.grad(log_prob_nV, state_nD, gradient_nV.to(log_prob_nV.dtype))
        with torch.no_grad():
            change_nV = torch.func.jvp(log_prob, (state_nD.detach(),), (step_nD,))[1]
        achieved_n = _energy(less_mean(change_nV.double()))
        parts.append((_energy(step_nD.double()), _energy(gradient_nV), achieved_n))
    return Descent(*map(torch.cat, zip(*parts, strict=True)))


def linear_descent_cosine(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    p_star: Tensor | None = None,
) -> Descent:
    """`descent_cosine` of softmax(W h + b) in closed form, CJ = CW: two products in chunks of rows.

    Args:
        hidden: (N, D), what the matrix multiplies.
        weight: (V, D).
        target: (N,) int64 tokens drawn, for g = p - y; or else
        p_star: (N, V) true probabilities, for g = p - p*.
        bias: (V,).

    >>> found = linear_descent_cosine(torch.zeros(1, 3), torch.eye(3), torch.tensor([0]))
    >>> round(found.cosine.item(), 6)
    1.0
    """
    check_linear(hidden, weight, bias)
    check_wanted(len(hidden), len(weight), target, p_star)
    weight_VD = centred(weight.detach().double())
    gram_DD = weight_VD.T @ weight_VD
    parts = []
    for gradient_nV in linear_gradients(hidden, weight_VD, target, bias, p_star):
        step_nD = gradient_nV @ weight_VD
        achieved_n = ((step_nD @ gram_DD) * step_nD).sum(1)
        parts.append((_energy(step_nD), _energy(gradient_nV), achieved_n))
    return Descent(*map(torch.cat, zip(*parts, strict=True)))


class DescentCosine(Metric):
    """`descent_cosine` over batches: sums of the inner products.

    >>> metric = DescentCosine()
    >>> metric.update(Descent(torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([1.0])))
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, descent: Descent) -> None:
        """Add rows, as `descent_cosine` gives them."""
        parts = (descent.inner, descent.wanted, descent.achieved)
        self.sums += torch.stack([part.sum(dtype=torch.float64) for part in parts])
        self.count += descent.inner.numel()

    def compute(self) -> Tensor:
        """The cosine over all rows."""
        if not self.count:
            raise InputError("the cosine has no rows yet; call update first")
        return Descent(*self.sums).cosine


def gradient_ranks(
    loss: Tensor, parameters: Mapping[str, Tensor], retain_graph: bool = False
) -> dict[str, float]:
    """Proportional effective rank of each matrix's gradient (Diehl Martinez et al. 2024), by name.

    PER = effective rank of the singular values / how many there are, in (0, 1]; 0 for a gradient that is
    zero, NaN for one that is not finite. Vectors and what is frozen are skipped; leading dimensions are
    joined as rows. Nobody's `.grad` is touched; `retain_graph` keeps the loss for a backward after this.

    A tensor inside the graph serves as well as a weight: `{"hidden": hidden}` gives the gradient that
    reaches the trunk, whose effective rank is PER x min(N, D).

    >>> weight = torch.zeros(2, 3, requires_grad=True)
    >>> ranks = gradient_ranks(weight.sum(), {"weight": weight})  # all ones: rank 1 of 2
    >>> round(ranks["weight"], 6)
    0.5
    """
    matrices = {name: p for name, p in parameters.items() if p.ndim > 1 and p.requires_grad}
    if not matrices:
        return {}
    if loss.numel() != 1 or not loss.requires_grad:
        raise InputError(f"loss must be one number with a gradient, not {tuple(loss.shape)}")
    gradients = torch.autograd.grad(
        loss, list(matrices.values()), retain_graph=retain_graph, materialize_grads=True
    )
    return {
        name: float(proportional_effective_rank(singular_values(gradient.flatten(0, -2))))
        for name, gradient in zip(matrices, gradients, strict=True)
    }


def gradient_at_logits(
    log_prob_nV: Tensor, target: Tensor | None, p_star: Tensor | None, rows: slice
) -> Tensor:
    """g = p - y or p - p* of these rows, (n, V) float64, summing to zero over V."""
    log_prob_nV = log_prob_nV.detach().double()
    gradient_nV = log_prob_nV.exp()
    if target is not None:
        drawn_n1 = target[rows, None]
        gradient_nV.scatter_(1, drawn_n1, 0.0)
        # p - 1 as what the others have: it has no digits of its own where p is near 1
        gradient_nV.scatter_(1, drawn_n1, -gradient_nV.sum(1, keepdim=True))
    elif p_star is not None:
        gradient_nV -= p_star[rows].detach().double()
    return less_mean(gradient_nV)  # what is given in float32 sums to 1 but nearly


def linear_gradients(
    hidden: Tensor, weight_VD: Tensor, target: Tensor | None, bias: Tensor | None, p_star: Tensor | None
) -> Iterator[Tensor]:
    """`gradient_at_logits` of softmax(W h + b) in chunks of rows, for W in float64."""
    bias_V = weight_VD.new_zeros(len(weight_VD)) if bias is None else bias.detach().double()
    for rows in row_chunks(len(hidden), len(weight_VD)):
        logits_nV = torch.addmm(bias_V, hidden[rows].detach().double(), weight_VD.T)
        yield gradient_at_logits(logits_nV.log_softmax(1), target, p_star, rows)


def row_chunks(count: int, entries: int, budget: int = CHUNK) -> Iterator[slice]:
    """Slices of rows of so many entries each that a chunk keeps to the budget, or is one row."""
    size = max(1, budget // entries)
    return (slice(start, start + size) for start in range(0, count, size))


def less_mean(rows: Tensor) -> Tensor:
    """C times (n, V) or (n, V, D): less the mean over V."""
    return rows - rows.mean(1, keepdim=True)


def called_with(log_prob: LogProb, hidden: Tensor) -> tuple[Tensor, int]:
    """The states as `log_prob` gets them, float32 at least, and the vocabulary's size."""
    if hidden.ndim != 2 or not hidden.numel():
        raise InputError(f"hidden must be (N, D) with rows, not {tuple(hidden.shape)}")
    with torch.inference_mode(False), torch.no_grad():
        state_ND = hidden.to(torch.promote_types(hidden.dtype, torch.float32), copy=True)
        return state_ND, log_prob(state_ND[:1]).shape[1]


def check_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise unless hidden (N, D), weight (V, D) and bias (V,) belong together."""
    if hidden.ndim != 2 or not hidden.numel():
        raise InputError(f"hidden must be (N, D) with rows, not {tuple(hidden.shape)}")
    if weight.ndim != 2 or not weight.numel() or weight.shape[1] != hidden.shape[1]:
        raise InputError(f"the head's matrix has shape {tuple(weight.shape)}, not (V, {hidden.shape[1]})")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"the bias has shape {tuple(bias.shape)} for {weight.shape[0]} tokens")


def check_wanted(count: int, vocab_size: int, target: Tensor | None, p_star: Tensor | None) -> None:
    """Raise unless exactly one of target (N,) and p_star (N, V) is given, and fits."""
    if (target is None) == (p_star is None):
        raise InputError("give either target, for p - y, or p_star, for p - p*")
    if p_star is not None and p_star.shape != (count, vocab_size):
        raise InputError(f"p_star has shape {tuple(p_star.shape)}, not {(count, vocab_size)}")
    if target is None:
        return
    if target.shape != (count,) or target.dtype != torch.int64:
        raise InputError(f"target is {target.dtype} {tuple(target.shape)}, not int64 {(count,)}")
    if target.min() < 0 or target.max() >= vocab_size:
        raise InputError(
            f"a target lies outside the {vocab_size} tokens; leave out rows that are not scored"
        )


def _energy(rows: Tensor) -> Tensor:
    energy_n: Tensor = rows.square().sum(1)
    return energy_n
