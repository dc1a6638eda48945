"""litgpt's GPT in Pythia's form, with the loss of its own training script, chunked or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from litgpt import GPT, Config
from litgpt.utils import chunked_cross_entropy
from torch import Tensor

CHUNK_SIZES = {"chunked loss": 128, "whole loss": 0}  # 128 is its default


def build(
    sizes: dict[str, Any], variant: str, compiled: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    config = Config(  # the rest of its defaults is Pythia's block
        block_size=sizes["window"],
        vocab_size=sizes["vocab_size"],
        padded_vocab_size=sizes["vocab_size"],
        n_embd=sizes["hidden_size"],
        n_layer=sizes["num_hidden_layers"],
        n_head=sizes["num_attention_heads"],
        intermediate_size=sizes["intermediate_size"],
    )
    model = GPT(config)
    model.apply(model._init_weights)  # as its pretraining script does

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return chunked_cross_entropy(model(tokens), targets, chunk_size=CHUNK_SIZES[variant])

    return model, torch.compile(loss, dynamic=False) if compiled else loss
