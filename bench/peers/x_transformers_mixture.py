"""x-transformers' decoder with its mixture of softmaxes, or its linear head, by PyTorch's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from x_transformers import Decoder, TransformerWrapper


def build(
    sizes: dict[str, Any], components: int, compiled: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    width, attention_heads = sizes["hidden_size"], sizes["attention_heads"]
    mixture = {"mixture_of_softmax": True, "mixture_of_softmax_k": components} if components else {}
    model = TransformerWrapper(
        num_tokens=sizes["vocab_size"],
        max_seq_len=sizes["window"],
        attn_layers=Decoder(
            dim=width, depth=1, heads=attention_heads, attn_dim_head=width // attention_heads
        ),
        **mixture,
    )
    likelihood = F.nll_loss if model.output_is_log_prob else F.cross_entropy  # as its own wrapper chooses

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return likelihood(model(tokens).flatten(0, 1), targets.flatten())

    return model, torch.compile(loss, dynamic=False) if compiled else loss
