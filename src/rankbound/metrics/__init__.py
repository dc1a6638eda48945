"""Measurements: pure functions of tensors, and torchmetrics classes where a state adds up over batches."""

from rankbound.metrics.geometry import anisotropy, mean_norm
from rankbound.metrics.language import TokenLoss
from rankbound.metrics.spectrum import (
    effective_rank,
    participation_ratio,
    singular_entropy,
    singular_values,
    spectrum_summary,
    stable_rank,
)

__all__ = [
    "TokenLoss",
    "anisotropy",
    "effective_rank",
    "mean_norm",
    "participation_ratio",
    "singular_entropy",
    "singular_values",
    "spectrum_summary",
    "stable_rank",
]
