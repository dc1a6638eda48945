"""Spectra for those who watch a run in TensorBoard or Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def log_histogram(logger: Any, name: str, values: Sequence[float], step: int) -> None:
    """Show values as a histogram where the logger can; other loggers are left alone."""
    kind = type(logger).__name__
    shown = torch.tensor([value for value in values if abs(value) < float("inf")])
    if not len(shown):
        return
    if kind == "TensorBoardLogger":
        logger.experiment.add_histogram(name, shown, step)
    elif kind == "WandbLogger":
        import wandb

        logger.log_metrics({name: wandb.Histogram(shown.numpy())}, step)
