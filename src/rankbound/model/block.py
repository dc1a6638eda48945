"""One decoder block: causal self-attention and a feed-forward layer, both pre-norm.

Matrices that write into the residual stream are named `out`; the initialisation scales them by depth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.model.attention import Attention
from rankbound.model.cache import KeyValues
from rankbound.model.norm import Norm, norm_layer

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu", "geglu_tanh"]

_gelu_tanh = partial(F.gelu, approximate="tanh")
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}
_GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
}


def is_gated(activation: Activation) -> bool:
    """Whether a gate multiplies the feed-forward layer's inner width."""
    return activation in _GATED


class Block(nn.Module):
    """(B, T, D) -> (B, T, D); arguments as in `GPT`, those that follow from others worked out."""

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        intermediate_size: int,
        norm: Norm,
        norm_eps: float,
        output_norm: Norm | None,
        activation: Activation,
        parallel_residual: bool,
        qk_norm: bool,
        use_bias: bool,
        qkv_bias: bool,
        feed_forward_bias: bool,
        attention_soft_cap: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.parallel_residual = parallel_residual
        self.attention_norm = norm_layer(norm, hidden_size, norm_eps)
        self.feed_forward_norm = norm_layer(norm, hidden_size, norm_eps)
        self.attention = Attention(
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            use_bias=use_bias,
            qkv_bias=qkv_bias,
            qk_norm=norm if qk_norm else None,
            norm_eps=norm_eps,
            soft_cap=attention_soft_cap,
            dropout=dropout,
        )
        kind = GatedFeedForward if is_gated(activation) else FeedForward
        self.feed_forward = kind(hidden_size, intermediate_size, activation, feed_forward_bias)
        self.attention_out_norm = self._output_norm(output_norm, hidden_size, norm_eps)
        self.feed_forward_out_norm = self._output_norm(output_norm, hidden_size, norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: KeyValues | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        attended = self.attention(self.attention_norm(hidden), cos, sin, past, visible)
        attended = self.dropout(self.attention_out_norm(attended))
        if self.parallel_residual:
            result: Tensor = hidden + attended + self._fed(hidden)
            return result
        hidden = hidden + attended
        result = hidden + self._fed(hidden)
        return result

    @staticmethod
    def _output_norm(kind: Norm | None, size: int, eps: float) -> nn.Module:
        return norm_layer(kind, size, eps) if kind else nn.Identity()

    def _fed(self, hidden: Tensor) -> Tensor:
        fed = self.feed_forward(self.feed_forward_norm(hidden))
        dropped: Tensor = self.dropout(self.feed_forward_out_norm(fed))
        return dropped


class FeedForward(nn.Module):
    """out(f(inner(x)))."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Activation, use_bias: bool
    ) -> None:
        super().__init__()
        self.activation = _PLAIN[activation]
        self.inner = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.out = nn.Linear(intermediate_size, hidden_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        fed: Tensor = self.out(self.activation(self.inner(x)))
        return fed


class GatedFeedForward(nn.Module):
    """out(f(gate(x)) * inner(x)) (Shazeer 2020)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Activation, use_bias: bool
    ) -> None:
        super().__init__()
        self.activation = _GATED[activation]
        self.gate_inner = nn.Linear(hidden_size, 2 * intermediate_size, bias=use_bias)
        self.out = nn.Linear(intermediate_size, hidden_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, inner = self.gate_inner(x).chunk(2, dim=-1)
        fed: Tensor = self.out(self.activation(gate) * inner)
        return fed
