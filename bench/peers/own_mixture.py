"""This project's body with a mixture of softmaxes, or a linear head, by the chunked loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rankbound import heads
from rankbound.model import GPT


def build(
    sizes: dict[str, Any], components: int, compiled: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    width, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    body = GPT(
        vocabulary,
        width,
        num_hidden_layers=1,
        num_attention_heads=sizes["attention_heads"],
        max_position_embeddings=sizes["window"],
    )
    if components:
        head = heads.MixtureOfSoftmaxes(width, vocabulary, components=components)
    else:
        head = heads.Linear(width, vocabulary)
    trunk = torch.compile(body.trunk, dynamic=False) if compiled else body.trunk
    chunked = heads.ChunkedLoss(head, compile=compiled)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return chunked(trunk(body.embed(tokens)).flatten(0, 1), targets.flatten())

    return torch.nn.ModuleList([body, head]), loss
