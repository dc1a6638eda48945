"""Intervals of means over tokens that come in documents, and documents shared out between parts.

Design decisions:
- Tokens of a document are no independent pieces of evidence. A mean over tokens has the cluster-robust
  error CR2 and a t interval with the degrees of freedom of Bell and McCaffrey (2002), documents being the
  clusters: right also where documents are few and of unequal length. In closed form, since the mean is a
  regression on a constant; no bootstrap, so no draws.
- A ratio of two such means (the share won back) is linearised; documents are its degrees of freedom.
- A text with few documents is cut into blocks of consecutive tokens, which stand for documents.

Shapes: N tokens, G documents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankbound.analysis.intervals import Estimate
from rankbound.errors import InputError

#: Fewer documents than this do not allow three parts; blocks of tokens are taken instead.
FEWEST_DOCUMENTS, BLOCKS = 12, 60


def cluster_mean(values_N: Tensor, document_N: Tensor, confidence: float = 0.95) -> Estimate:
    """Mean over tokens, its error by document; without an error for a single document."""
    sums_G, counts_G = _by_document(values_N, document_N)
    total = counts_G.sum()
    mean = sums_G.sum() / total
    share_G = counts_G / total
    if len(counts_G) < 2:
        return Estimate(float(mean), math.nan, 0, confidence)
    error = ((sums_G - mean * counts_G).square() / (1 - share_G)).sum().sqrt() / total
    leverage_G = counts_G * share_G / (1 - share_G)
    traces = counts_G.square().sum() + leverage_G.sum().square() - leverage_G.square().sum()
    return _estimate(mean, error, float(total.square() / traces), confidence)


def cluster_ratio(
    above_N: Tensor, below_N: Tensor, document_N: Tensor, confidence: float = 0.95
) -> Estimate:
    """Ratio of two means over the same tokens, linearised; NaN where the lower one is 0."""
    above_G, below_G = (_by_document(values, document_N)[0] for values in (above_N, below_N))
    count, total = len(above_G), below_G.sum()
    if total == 0:
        return Estimate(math.nan, math.nan, 0, confidence)
    ratio = above_G.sum() / total
    if count < 2:
        return Estimate(float(ratio), math.nan, 0, confidence)
    squares = (above_G - ratio * below_G).square().sum() * count / (count - 1)
    return _estimate(ratio, squares.sqrt() / total.abs(), count - 1, confidence)


def blocks_for(document_N: Tensor) -> tuple[Tensor, str]:
    """Documents numbered from 0 in order, (N,), or blocks where there are too few; and what they are."""
    _, numbered_N = torch.unique_consecutive(document_N, return_inverse=True)
    count = int(numbered_N[-1]) + 1 if len(numbered_N) else 0
    if count >= FEWEST_DOCUMENTS or len(numbered_N) < 4 * FEWEST_DOCUMENTS:
        return numbered_N, f"{count:,} documents"
    blocks = min(BLOCKS, len(numbered_N) // 4)
    block_N = torch.arange(len(numbered_N)) * blocks // len(numbered_N)
    return block_N, f"{blocks} blocks of consecutive tokens, as it is {count} documents only"


def three_parts(
    document_N: Tensor, shares: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of whole documents to fit, to choose and to report by, and every document's place at random.

    Args:
        document_N: (N,) numbered from 0 in order.
        shares: Of the documents; each part gets one at least where there are three.
        seed: Of the order in which documents are drawn.

    Returns:
        Three ascending tensors of rows, and (G,) a place in [0, 1) among the documents of its part, so that
        those below a half are a random half of the part.
    """
    if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise InputError(f"shares are {shares}; three positive numbers that add up to 1 are needed")
    count = int(document_N.max()) + 1 if len(document_N) else 0
    order_G = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    ends = [round(shares[0] * count), round((shares[0] + shares[1]) * count)]
    if count >= 3:
        ends = [min(max(ends[0], 1), count - 2), 0]
        ends[1] = min(max(round((shares[0] + shares[1]) * count), ends[0] + 1), count - 1)
    part_G, place_G = torch.empty(count, dtype=torch.long), torch.empty(count)
    for part, drawn in enumerate(torch.tensor_split(order_G, ends)):
        part_G[drawn] = part
        place_G[drawn] = torch.arange(len(drawn)) / max(len(drawn), 1)
    part_N = part_G[document_N]
    fit, choose, report = (torch.nonzero(part_N == part).squeeze(1) for part in range(3))
    return fit, choose, report, place_G


def _by_document(values_N: Tensor, document_N: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of values and number of tokens of each document that has any, float64."""
    _, inverse_N, counts_G = torch.unique(document_N, return_inverse=True, return_counts=True)
    sums_G = torch.zeros(len(counts_G), dtype=torch.float64)
    sums_G.index_add_(0, inverse_N, values_N.double().cpu())
    return sums_G, counts_G.double()


def _estimate(mean: Tensor, error: Tensor, freedom: float, confidence: float) -> Estimate:
    known = float(error) > 0
    return Estimate(float(mean), float(error) if known else math.nan, freedom if known else 0, confidence)
