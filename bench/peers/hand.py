"""This project's model and loss, compiled as `rankbound fit` compiles them, for a hand-written loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rankbound.heads import ChunkedLoss
from rankbound.heads.linear import Linear
from rankbound.model import GPT
from rankbound.training.language_model import LanguageModel


def build(
    sizes: dict[str, Any], variant: str, compiled: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    window = {"max_position_embeddings": sizes["window"]}
    body = {k: v for k, v in sizes.items() if k != "window"}
    model = LanguageModel(GPT(**body, **window), Linear)
    trunk = torch.compile(model.body.trunk, dynamic=False) if compiled else model.body.trunk
    chunked = ChunkedLoss(model.head, compile=compiled)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return chunked(trunk(model.body.embed(tokens)).flatten(0, 1), targets.flatten())

    return model, loss
