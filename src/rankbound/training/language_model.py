"""A body and a head: the language model without any trainer, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from rankbound.heads import Head
from rankbound.model import GPT


class LanguageModel(nn.Module):
    """Tokens (B, T) int64 -> log-probabilities of the next token (B, T, V) float32.

    Args:
        body: tokens to hidden states.
        head: a factory (hidden_size, vocab_size) -> `Head`.
        tie_word_embeddings: let the head read with the embedding's matrix.
    """

    def __init__(
        self, body: GPT, head: Callable[[int, int], Head], tie_word_embeddings: bool = False
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head(body.hidden_size, body.embedding.num_embeddings)
        if tie_word_embeddings:
            self.head.tie(cast(nn.Parameter, body.embedding.weight))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden_BTD = self.body(tokens)
        log_prob_NV = self.head.log_prob(hidden_BTD.flatten(0, 1))
        return log_prob_NV.view(*tokens.shape, -1)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part; a tied matrix counts with the embedding."""
        embedding = self.body.embedding.weight
        parts: dict[str, list[Tensor]] = {
            "embedding": [embedding],
            "body": [p for p in self.body.parameters() if p is not embedding],
            "head": [p for p in self.head.parameters() if p is not embedding],
        }
        counts = {name: sum(p.numel() for p in part) for name, part in parts.items()}
        return counts | {"total": sum(counts.values())}
