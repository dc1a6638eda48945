"""Gram matrices of next-token distributions, from counts: what W-error is the spectrum of.

With n_c the counts (V) after context c, n their sum and p_c = n_c / n, each estimates sum_c w_c p_c p_c':

- `empirical`: with p_c for the truth. Its energy is too high by w_c (1 - |p|^2) / n: counting noise.
- `unbiased`: the U-statistic w_c (n_c n_c' - diag n_c) / (n (n - 1)), over pairs of different occurrences.
- `crossed`: w_c (a_c b_c' + b_c a_c') / 2 with a_c, b_c from disjoint halves of the occurrences. Where the
  halves split each context evenly, its mean over splits is the unbiased one.

Contexts with no pair of occurrences (in different halves) say nothing of what the last two estimate and
have no part in them. Weights w_c are n, the matrix that a loss sees, or 1.

Occurrences can have multiplicities, for the bootstrap: copies of one occurrence never make a pair, else a
resampled corpus would seem to repeat itself.

Shapes: V vocabulary, E stored counts, C' contexts followed by two different tokens or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from rankbound.analysis.ngrams import Floats, NextTokens

Weighting = Literal["count", "context"]


@dataclass(frozen=True)
class Gram:
    """The symmetric matrix (left' right + right' left) / 2 + diag(diagonal), (V, V), not built.

    - `left`, `right`: (C', V), of the same sparsity; the same object where both are one matrix
    - `diagonal`: (V,), with all contexts that only one token follows
    """

    left: csr_array
    right: csr_array
    diagonal: Floats

    @cached_property
    def trace(self) -> float:
        return float(self.left.data @ self.right.data + self.diagonal.sum())

    def __matmul__(self, columns: Floats) -> Floats:
        """Multiply (V, K) in the time of two or four sparse products."""
        product: Floats = self._left_transposed @ (self.right @ columns)
        if self.left is not self.right:
            product = (product + self._right_transposed @ (self.left @ columns)) / 2
        product += self.diagonal[:, None] * columns
        return product

    def dense(self) -> Floats:
        built: Floats = (self._left_transposed @ self.right).toarray()
        if self.left is not self.right:
            built = (built + built.T) / 2
        built[np.diag_indices(len(built))] += self.diagonal
        return built

    @cached_property
    def _left_transposed(self) -> csr_array:
        return self.left.T.tocsr()

    @cached_property
    def _right_transposed(self) -> csr_array:
        return self.right.T.tocsr()


def empirical(seen: NextTokens, weighting: Weighting) -> Gram:
    """Take the counted distributions for the true ones."""
    counts = seen.counts.data.astype(np.float64)
    total = _by_context(seen, counts)
    scaled = counts * np.sqrt(_weight(total, weighting))[seen.context] / total[seen.context]
    return _gram(seen, scaled, scaled, np.zeros_like(scaled))


def unbiased(seen: NextTokens, weighting: Weighting, multiplicity: Floats | None = None) -> Gram:
    """Estimate over pairs of different occurrences; `multiplicity`, (N,), says how often each is there."""
    counts = squares = seen.counts.data.astype(np.float64)
    if multiplicity is not None:
        counts, squares = seen.weighted(multiplicity), seen.weighted(multiplicity**2)
    total = _by_context(seen, counts)
    pairs = total**2 - _by_context(seen, squares)
    scale = np.divide(_weight(total, weighting), pairs, out=np.zeros_like(total), where=pairs > 0.5)
    scaled = counts * np.sqrt(scale)[seen.context]
    return _gram(seen, scaled, scaled, -squares * scale[seen.context])


def crossed(seen: NextTokens, half: NDArray[np.bool_], weighting: Weighting) -> tuple[Gram, Gram]:
    """The unbiased estimate of the first half alone, and that from products of both halves.

    `half` is (N,), true in the first. Weights of the second are those of the whole corpus.
    """
    first, second = seen.weighted(half.astype(np.float64)), seen.weighted((~half).astype(np.float64))
    total_first, total_second = _by_context(seen, first), _by_context(seen, second)
    products = total_first * total_second
    weight = _weight(total_first + total_second, weighting)
    scale = np.sqrt(np.divide(weight, products, out=np.zeros_like(products), where=products > 0.5))
    left, right = first * scale[seen.context], second * scale[seen.context]
    return unbiased(seen, weighting, half.astype(np.float64)), _gram(seen, left, right, np.zeros_like(left))


def _weight(total: Floats, weighting: Weighting) -> Floats:
    return total if weighting == "count" else np.ones_like(total)


def _by_context(seen: NextTokens, values: Floats) -> Floats:
    """Sum values of stored counts, (E,), within each context, (C,)."""
    return np.bincount(seen.context, values, seen.counts.shape[0]).astype(np.float64)


def _gram(seen: NextTokens, left: Floats, right: Floats, diagonal: Floats) -> Gram:
    """From values of the stored counts, each (E,); a context with one nonzero is only diagonal."""
    vocab_size = seen.counts.shape[1]
    used = (left != 0) | (right != 0)
    alone = used & (_by_context(seen, used.astype(np.float64)) == 1)[seen.context]
    kept = used & ~alone
    on_diagonal = np.bincount(
        seen.counts.indices, diagonal + np.where(alone, left * right, 0.0), vocab_size
    ).astype(np.float64)
    lengths = np.bincount(seen.context[kept], minlength=seen.counts.shape[0])
    indptr = np.append(0, np.cumsum(lengths[lengths > 0]))
    columns, shape = seen.counts.indices[kept], (len(indptr) - 1, vocab_size)
    rows = csr_array((left[kept], columns, indptr), shape=shape)
    other = rows if left is right else csr_array((right[kept], columns, indptr), shape=shape)
    return Gram(rows, other, on_diagonal)
