"""One decoder block: causal self-attention and a feed-forward layer, both pre-norm.

Matrices that write into the residual stream are named `out`; the initialisation scales them by depth.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.model.attention import Attention
from rankbound.model.norm import Norm, norm_layer


class Block(nn.Module):
    """(B, T, D) -> (B, T, D); arguments as in `GPT`."""

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        norm: Norm,
        norm_eps: float,
        activation: Literal["gelu", "swiglu"],
        parallel_residual: bool,
        qk_norm: bool,
        use_bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.parallel_residual = parallel_residual
        self.attention_norm = norm_layer(norm, hidden_size, norm_eps)
        self.feed_forward_norm = norm_layer(norm, hidden_size, norm_eps)
        self.attention = Attention(
            hidden_size, num_attention_heads, use_bias, norm if qk_norm else None, norm_eps, dropout
        )
        self.feed_forward: nn.Module = (
            SwiGLU(hidden_size, intermediate_size)
            if activation == "swiglu"
            else GELU(hidden_size, intermediate_size, use_bias)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attended = self.dropout(self.attention(self.attention_norm(hidden), cos, sin))
        if self.parallel_residual:
            result: Tensor = hidden + attended + self._fed(hidden)
            return result
        hidden = hidden + attended
        result = hidden + self._fed(hidden)
        return result

    def _fed(self, hidden: Tensor) -> Tensor:
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return fed


class GELU(nn.Module):
    """out(gelu(inner(x)))."""

    def __init__(self, hidden_size: int, intermediate_size: int, use_bias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.out = nn.Linear(intermediate_size, hidden_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        fed: Tensor = self.out(F.gelu(self.inner(x)))
        return fed


class SwiGLU(nn.Module):
    """out(silu(gate(x)) * inner(x)) (Shazeer 2020), without biases."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_inner = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.out = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, inner = self.gate_inner(x).chunk(2, dim=-1)
        fed: Tensor = self.out(F.silu(gate) * inner)
        return fed
