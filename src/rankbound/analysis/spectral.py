"""Energy captured by the leading eigenvectors of a Gram matrix, by its own count and by others'.

Let Q_d be the d leading eigenvectors of G. `captured_energy(G, [M, ...])` gives tr(Q_d' M Q_d) / tr M for
every d and M: with M = G the spectrum itself, with M from other data what that basis holds of it.

Design decisions:
- Up to `DENSE` tokens by one eigendecomposition in float64.
- Beyond, it takes minutes to hours. There a block Krylov space gives the leading eigenvectors, and Lanczos
  quadrature from random probes the rest: a probe z has the share n_i = |z|^2 u_i[0]^2 of its Ritz value's
  count and |z| u_i[0] u_i' V' M z of the energy there, without bias in either. Counts and energies are
  scaled to their sums, which are known. No V x V matrix is built.
- The quadrature's curve is good to about 1 % of W-error with the numbers below; the tests hold it to that.

Shapes: V vocabulary, P probes, S Lanczos steps, K leading vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rankbound.analysis.gram import Gram
from rankbound.analysis.ngrams import Floats

DENSE = 2048
BLOCK, BLOCKS, LEADING = 64, 8, 192
PROBES, STEPS = 8, 96


def captured_energy(gram: Gram, measured: Iterable[Gram], seed: int = 0, dense: int = DENSE) -> Floats:
    """The share of each measured matrix's trace that the d leading eigenvectors of `gram` capture.

    Returns:
        (number measured, V + 1), for d = 0 to V; may pass 1 where a matrix has negative energies.
    """
    exact = len(gram.diagonal) <= dense
    return np.stack(_exact(gram, measured) if exact else _quadrature(gram, measured, seed))


def _exact(gram: Gram, measured: Iterable[Gram]) -> list[Floats]:
    values, vectors = np.linalg.eigh(gram.dense())
    energies = (
        (m, values if m is gram else _quadratic_forms(vectors, m.dense() @ vectors)) for m in measured
    )
    return [np.append(0, np.cumsum(own[::-1])) / m.trace for m, own in energies]


def _quadrature(gram: Gram, measured: Iterable[Gram], seed: int) -> list[Floats]:
    rng, vocab_size = np.random.default_rng(seed), len(gram.diagonal)
    leading = _leading(gram, rng)
    start = leading.shape[1]
    probes = rng.choice((-1.0, 1.0), size=(vocab_size, PROBES))
    probes -= leading @ (leading.T @ probes)
    heads, traces, images = [], [], []
    for m in measured:
        heads.append(np.append(0, np.cumsum(_quadratic_forms(leading, m @ leading))))
        traces.append(m.trace)
        image = m @ probes
        images.append(image - leading @ (leading.T @ image))
    values, counts, energies = _lanczos(gram, leading, probes, images)
    order = np.argsort(-values)
    tail_widths = start + _middles(counts[order]) * (vocab_size - start) / counts.sum()
    widths = np.concatenate([np.arange(start + 1), tail_widths, [vocab_size]])
    curves = []
    for head, trace, own in zip(heads, traces, energies, strict=True):
        tail = head[-1] + _middles(own[order]) * (trace - head[-1]) / own.sum()
        curves.append(np.interp(np.arange(vocab_size + 1), widths, [*head, *tail, trace]) / trace)
    return curves


def _leading(gram: Gram, rng: np.random.Generator) -> Floats:
    """The first `LEADING` Ritz vectors, (V, K), of a block Krylov space."""
    block = np.linalg.qr(rng.standard_normal((len(gram.diagonal), BLOCK)))[0]
    basis, images = block, gram @ block
    for _ in range(BLOCKS - 1):
        block = images[:, -BLOCK:]
        for _ in range(2):  # once leaves float64's rounding times the condition of the block
            block = block - basis @ (basis.T @ block)
            block = np.linalg.qr(block)[0]
        basis, images = np.hstack([basis, block]), np.hstack([images, gram @ block])
    _, vectors = np.linalg.eigh(basis.T @ images)
    leading: Floats = basis @ vectors[:, : -LEADING - 1 : -1]
    return leading


def _lanczos(
    gram: Gram, leading: Floats, probes: Floats, images: Sequence[Floats]
) -> tuple[Floats, Floats, Floats]:
    """Ritz values (P S,), their shares of the count (P S,), and of each image's energy, (images, P S)."""
    norms = np.linalg.norm(probes, axis=0)
    basis = np.empty((len(norms), STEPS, len(probes)))
    diagonal, off = np.empty((STEPS, len(norms))), np.empty((STEPS, len(norms)))
    vectors = probes / norms
    for step in range(STEPS):
        basis[:, step] = vectors.T
        following = gram @ vectors
        diagonal[step] = (vectors * following).sum(0)
        following -= leading @ (leading.T @ following)
        for own, column in zip(basis[:, : step + 1], following.T, strict=True):
            for _ in range(2):  # against all before it, else copies of converged values appear
                column -= (own @ column) @ own
        off[step] = np.linalg.norm(following, axis=0)
        vectors = following / off[step]
    values, counts = np.empty((len(norms), STEPS)), np.empty((len(norms), STEPS))
    energies = np.empty((len(images), len(norms), STEPS))
    for p, norm in enumerate(norms):
        tridiagonal = np.diag(diagonal[:, p]) + np.diag(off[:-1, p], 1) + np.diag(off[:-1, p], -1)
        values[p], ritz = np.linalg.eigh(tridiagonal)
        counts[p] = norm**2 * ritz[0] ** 2
        for m, image in enumerate(images):
            energies[m, p] = norm * ritz[0] * (ritz.T @ (basis[p] @ image[:, p]))
    return values.ravel(), counts.ravel(), energies.reshape(len(images), -1)


def _middles(weights: Floats) -> Floats:
    """Cumulative sums with half of each own weight: what quadrature knows of a step function."""
    return np.cumsum(weights) - weights / 2


def _quadratic_forms(vectors: Floats, images: Floats) -> Floats:
    forms: Floats = np.einsum("vk,vk->k", vectors, images)
    return forms
