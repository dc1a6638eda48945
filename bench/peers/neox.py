"""`transformers`' GPT-NeoX, with its own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def build(
    sizes: dict[str, Any], variant: str, compiled: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    config = GPTNeoXConfig(
        **{k: v for k, v in sizes.items() if k != "window"},
        max_position_embeddings=sizes["window"],
        tie_word_embeddings=False,
        attn_implementation=variant,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPTNeoXForCausalLM(config)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        # shift_labels: the targets are shifted already, and the same as every other contestant's
        return model(input_ids=tokens, labels=targets, shift_labels=targets, use_cache=False).loss

    return model, torch.compile(loss, dynamic=False) if compiled else loss
