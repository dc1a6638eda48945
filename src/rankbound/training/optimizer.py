"""AdamW with decay groups chosen by module.

Weight decay on the embedding and on the head is a treatment of its own in this project (it moves the
head's effective rank, Kulkarni et al. 2026), so each has its own setting and neither follows from the
other. Norm gains and biases, anything with fewer than two dimensions, never decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rankbound.errors import InputError
from rankbound.training.language_model import LanguageModel


@dataclass(frozen=True)
class AdamW:
    """Settings of the optimiser.

    Args:
        learning_rate: peak rate, before the schedule's factor.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        eps: added to the root.
        weight_decay: of the body's matrices.
        embedding_weight_decay: of the input embedding.
        head_weight_decay: of the head's matrices, also of one it shares with the embedding.
    """

    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    embedding_weight_decay: float = 0.0
    head_weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.eps <= 0:
            raise InputError(
                f"learning_rate is {self.learning_rate}, eps {self.eps}; both must be positive"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise InputError(f"beta1 is {self.beta1}, beta2 {self.beta2}; both must be from 0 to below 1")
        if min(self.weight_decay, self.embedding_weight_decay, self.head_weight_decay) < 0:
            raise InputError("a weight decay is negative; each must be at least 0")

    def build(self, model: LanguageModel) -> torch.optim.AdamW:
        """The optimiser over `model`'s parameters, fused."""
        return torch.optim.AdamW(
            self.groups(model),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=True,
        )

    def groups(self, model: LanguageModel) -> list[dict[str, Any]]:
        """Parameter groups by name; every parameter is in exactly one."""
        head = {id(p) for p in model.head.parameters()}
        decay = {
            "body": self.weight_decay,
            "embedding": self.embedding_weight_decay,
            "head": self.head_weight_decay,
            "undecayed": 0.0,
        }
        members: dict[str, list[nn.Parameter]] = {name: [] for name in decay}
        for parameter in model.parameters():
            if parameter.ndim < 2:
                part = "undecayed"
            elif id(parameter) in head:
                part = "head"
            else:
                part = "embedding" if parameter is model.body.embedding.weight else "body"
            members[part].append(parameter)
        return [
            {"name": name, "params": members[name], "weight_decay": decay[name]}
            for name in decay
            if members[name]
        ]
