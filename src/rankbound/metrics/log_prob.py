"""The matrix that the softmax bottleneck is about: log-probabilities of every token after N contexts.

Design decisions:
- Raw, log P carries two columns that say nothing of the head's reach: the normaliser of each row and the
  unigram column. *Double-centred* (each row less its mean over V, then each column less its mean over N)
  both are gone; a linear head of width D has rank D + 1 raw (one more with a bias) and at most D so.
- float64 from end to end, and no Gram matrix unless asked for: a rank at 1e-10 or 1e-12 is a statement
  about digits that a float32 log-probability or a squared spectrum does not have.
- For a linear head nothing of size N x V is kept: log P = [H, 1, -lse] [W, b, 1]', and A B' has the
  singular values of R_A R_B', the triangles of the two thin factors.

Shapes: N contexts, V vocabulary, E width of what the head's matrix multiplies (states, or features).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.metrics.rows import Rows, rows_of
from rankbound.metrics.rows import centred as less_mean_row
from rankbound.metrics.singular import Method, singular_values
from rankbound.metrics.spectrum import effective_rank, numerical_rank, residual_energy

TOLERANCES = ("1e-2", "1e-3", "1e-6", "1e-10")
CHUNK = 2**22  # entries of a chunk of logits: 32 MiB in float64


def log_prob_spectrum(log_prob: Tensor, centred: bool = False, method: Method = "qr") -> Tensor:
    """Singular values of the log-probability matrix (N, V) of any head (Yang et al. 2018), largest first.

    Returns (min(N, V),) float64; NaN where a log-probability is not finite. `centred` is double-centred.
    Give rows of distinct contexts in float64 from a float64 head: rounding alone gives a float32 matrix
    full rank at 1e-7. `method` is that of `singular_values`; "gram" is blind below 1e-8 of the largest.

    >>> p = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    >>> log_prob_spectrum(p.log(), centred=True).round(decimals=3)  # the rows differ in one direction
    tensor([0.8000, 0.0000, 0.0000], dtype=torch.float64)
    """
    log_prob_NV = rows_of(log_prob)
    if centred:
        log_prob_NV = less_mean_row(log_prob_NV)  # first, since it tells rounding from spread
        log_prob_NV -= log_prob_NV.mean(1, keepdim=True)
    return singular_values(log_prob_NV, method=method)


def linear_log_prob_spectrum(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, centred: bool = False
) -> Tensor:
    """`log_prob_spectrum` of softmax(W h + b) from hidden (N, E), weight (V, E), bias (V,).

    Returns the leading values in float64, largest first: min(N, V, E) centred, min(N, V, E + 1) raw, one
    more with a bias; the rest of the min(N, V) are exactly zero. NaN where the input is not finite.
    Cost: two thin QRs; raw also the logits, in chunks, for the row normalisers.

    >>> h, w = torch.randn(2, 50, 3).double()
    >>> full = log_prob_spectrum((h @ w.T).log_softmax(1))
    >>> torch.allclose(linear_log_prob_spectrum(h, w), full[:4], rtol=1e-10)
    True
    """
    hidden_NE, weight_VE = rows_of(hidden), rows_of(weight)
    if hidden.shape[1] != weight.shape[1]:
        raise InputError(f"hidden has width {hidden.shape[1]} and the head's matrix {weight.shape[1]}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"the bias has shape {tuple(bias.shape)} for {weight.shape[0]} tokens")
    weight_VE = less_mean_row(weight_VE)  # moves all logits of a context alike, and so no log p
    if centred:
        return _product_values(less_mean_row(hidden_NE), weight_VE)
    left, right = [hidden_NE], [weight_VE]
    bias_V = weight_VE.new_zeros(len(weight_VE))
    if bias is not None:
        bias_V = bias.detach().double()
        bias_V = bias_V - bias_V.mean()
        left.append(hidden_NE.new_ones(len(hidden_NE), 1))
        right.append(bias_V[:, None])
    rows: tuple[Tensor, ...] = torch.split(hidden_NE, max(1, CHUNK // len(weight_VE)))
    normalizer_N = torch.cat([torch.addmm(bias_V, chunk, weight_VE.T).logsumexp(1) for chunk in rows])
    left.append(-normalizer_N[:, None])
    right.append(torch.ones_like(bias_V)[:, None])
    return _product_values(torch.cat(left, 1), torch.cat(right, 1))


def log_prob_summary(values: Tensor, bound: int) -> dict[str, float]:
    """The recorded scalars of a log-probability spectrum, beside the rank `bound` of a linear head.

    - `effective_rank`, `numerical_rank_T`: how many values exceed T times the largest
    - `energy_beyond`: sum of s^2 after the first `bound` values, in nats^2 over the N x V entries
    - `residual_energy`: its share of the whole sum, the squared relative error of the best approximation
      of rank `bound` (Eckart & Young 1936)

    All 0 for an all-zero spectrum, NaN for one that is not finite.

    >>> log_prob_summary(torch.tensor([2.0, 1.0]), bound=1)["residual_energy"]
    0.2
    """
    share = residual_energy(values, bound)
    ranks = {f"numerical_rank_{t}": float(numerical_rank(values, float(t))) for t in TOLERANCES}
    return {
        "effective_rank": float(effective_rank(values)),
        **ranks,
        "energy_beyond": float(share * values.detach().double().square().sum()),
        "residual_energy": float(share),
    }


class LogProbMatrix(Rows):
    """Spectra of the log-probability matrix whose rows (n, V) come in batches; keeps all N x V of them.

    Args:
        vocab_size: V.

    >>> metric = LogProbMatrix(vocab_size=3)
    >>> metric.update(torch.tensor([[0.5, 0.25, 0.25]]).log())
    >>> metric.update(torch.tensor([[0.25, 0.5, 0.25]]).log())
    >>> {name: len(values) for name, values in metric.compute().items()}
    {'raw': 2, 'centred': 2}
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)

    def compute(self) -> dict[str, Tensor]:
        """`raw` and `centred` singular values, (min(N, V),) each."""
        log_prob_NV = self.rows()
        return {
            "raw": log_prob_spectrum(log_prob_NV),
            "centred": log_prob_spectrum(log_prob_NV, centred=True),
        }


def distinct_contexts(tokens: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` positions of tokens (B, T), no two of which have the same context.

    A position's context is its row up to and with itself; of equal ones the first row's stays. Returns
    (count,) int64 into the B x T flattened positions, ascending, drawn by `seed` alike on every device;
    all distinct ones where there are fewer.

    >>> distinct_contexts(torch.tensor([[1, 2], [1, 3]]), 9, seed=0)  # both rows begin with 1
    tensor([0, 1, 3])
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise InputError(f"tokens must be whole numbers (B, T), not {tokens.dtype} {tuple(tokens.shape)}")
    if not tokens.numel():
        raise InputError(f"the probe set is empty: tokens have shape {tuple(tokens.shape)}")
    if count < 1:
        raise InputError(f"count is {count}; a probe set needs at least one context")
    kept_BT = _first_of_its_prefix(tokens.detach().cpu())
    index = kept_BT.flatten().nonzero().squeeze(1)
    drawn = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))[:count]
    return index[drawn].sort().values.to(tokens.device)


def _first_of_its_prefix(tokens_BT: Tensor) -> Tensor:
    """(B, T) bool: no earlier row has the same first t + 1 tokens."""
    rows, length = tokens_BT.shape
    known_BT = torch.unique(tokens_BT, return_inverse=True)[1]
    kept_BT = torch.ones(rows, length, dtype=torch.bool)
    prefix_B = torch.zeros(rows, dtype=torch.int64)  # equal numbers, equal prefixes
    for t in range(length):
        longer_B = prefix_B * (known_BT.max() + 1) + known_BT[:, t]
        different, prefix_B = torch.unique(longer_B, return_inverse=True)
        if len(different) == rows:  # and stay different
            break
        first = torch.full((len(different),), rows).scatter_reduce(0, prefix_B, torch.arange(rows), "amin")
        kept_BT[:, t] = first[prefix_B] == torch.arange(rows)
    return kept_BT


def _product_values(left_NE: Tensor, right_VE: Tensor) -> Tensor:
    """Singular values of left @ right.T from the triangles of both."""
    triangles = [torch.linalg.qr(factor, mode="r").R for factor in (left_NE, right_VE)]
    return singular_values(triangles[0] @ triangles[1].T, method="svd")
