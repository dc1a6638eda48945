"""Texts with a common beginning as one row, so that the beginning is read once.

A row holds the nodes of a tree of tokens, each before what follows it (in preorder): a node sees itself and
what leads to it, and stands at the position that it has in its text. Its state is the one it has when its
text is read alone, to rounding. A row saves the shared tokens and costs attention scores of nodes that do
not see each other.

Shapes: B rows, T nodes of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenTree(NamedTuple):
    """What `GPT.read_tree` reads.

    Attributes:
        tokens: (B, T) int64.
        positions: (B, T) int64, how many nodes lead to each.
        ends: (B, T) int64, the index after the last node that follows each, directly or not; its own
            plus one where none does.

    >>> from rankbound.model import GPT
    >>> body = GPT(50, hidden_size=16).eval()
    >>> both = TokenTree(*torch.tensor([[[7, 8, 9]], [[0, 1, 1]], [[3, 2, 3]]]))  # 7 8 and 7 9
    >>> with torch.inference_mode():
    ...     torch.allclose(body.read_tree(both)[0, 2], body(torch.tensor([[7, 9]]))[0, 1], atol=1e-6)
    True
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor

    def visible(self) -> Tensor:
        """Whether node i sees node j: (B, T, T) bool."""
        index_T = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (index_T[:, None] >= index_T) & (index_T[:, None] < self.ends[:, None])

    def to(self, device: torch.device) -> TokenTree:
        return TokenTree(*(part.to(device) for part in self))
