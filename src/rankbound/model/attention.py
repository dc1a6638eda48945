"""Causal self-attention with rotary positions.

Design decisions:
- PyTorch's scaled_dot_product_attention picks the kernel for the device, but on a CPU its flash kernel is
  made for long sequences: at 16 x 128 tokens, 4 heads of 32, the backward pass takes 13 ms in bfloat16
  where three plain products and a masked softmax take 2 (`python bench/attention.py`). Short windows that
  are trained on a CPU therefore take the plain way, whose (T, T) scores still fit the cache. Its forward
  pass is the slower one, so without gradients the kernel is taken.
- Heads that share keys and values (Ainslie et al. 2023) are stacked along time in the plain way: no key is
  copied, which is what sharing is for when one token is read after another.

Shapes: B batch, T new positions, S all positions so far, H heads, G key-value heads, E size of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.model.cache import KeyValues
from rankbound.model.norm import Norm, norm_layer
from rankbound.model.rotary import rotate

CPU_SHORT_WINDOW = 256  # tokens; beyond it the flash kernel wins on a CPU too


class Attention(nn.Module):
    """Causal multi-head self-attention: (B, T, D) -> (B, T, D); arguments as in `GPT`."""

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        use_bias: bool,
        qkv_bias: bool,
        qk_norm: Norm | None,
        norm_eps: float,
        soft_cap: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.soft_cap = soft_cap
        self.dropout = dropout
        rows = (num_attention_heads + 2 * num_key_value_heads) * head_dim
        self.query_key_value = nn.Linear(hidden_size, rows, bias=qkv_bias)
        self.out = nn.Linear(num_attention_heads * head_dim, hidden_size, bias=use_bias)
        self.query_norm = norm_layer(qk_norm, head_dim, norm_eps) if qk_norm else nn.Identity()
        self.key_norm = norm_layer(qk_norm, head_dim, norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: KeyValues | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        shared = self.num_key_value_heads
        query, key, value = rearrange(
            self.query_key_value(hidden), "b t (h e) -> b h t e", e=self.head_dim
        ).split((self.num_attention_heads, shared, shared), dim=1)
        query = rotate(self.query_norm(query), cos, sin)
        key = rotate(self.key_norm(key), cos, sin)
        if past is not None:
            key, value = past.append(key, value)
        dropout = self.dropout if self.training else 0.0
        attended = causal_attention(query, key, value, dropout, self.soft_cap, visible)
        mixed: Tensor = self.out(rearrange(attended, "b h t e -> b t (h e)"))
        return mixed


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    soft_cap: float | None = None,
    visible: Tensor | None = None,
) -> Tensor:
    """softmax(Q K' / sqrt(E)) V over earlier positions: (B, H, T, E), twice (B, G, S, E) -> (B, H, T, E).

    The T queries are those of the last positions; `visible` (B, 1, T, S) bool says what each sees where
    that is not all before it. `soft_cap` c maps scores z to c tanh(z / c).
    """
    (heads, new), (groups, length) = query.shape[1:3], key.shape[1:3]
    plain = query.device.type == "cpu" and (
        new == 1 or (torch.is_grad_enabled() and length <= CPU_SHORT_WINDOW)
    )
    if visible is None and new not in (1, length):
        visible = ~_later(new, length, query)
    if soft_cap is None and not plain:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible,
            dropout_p=dropout,
            is_causal=visible is None and new > 1,
            enable_gqa=heads != groups,
        )
    query = query * query.shape[-1] ** -0.5
    if heads != groups:
        query = rearrange(query, "b (g r) t e -> b g (r t) e", g=groups)
    scores = query @ key.transpose(-1, -2)
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if new > 1:
        later = _later(new, length, query) if visible is None else ~visible
        scores = scores.masked_fill(
            later if heads == groups else torch.cat([later] * (heads // groups), -2), -torch.inf
        )
    share = scores.softmax(-1)
    attended = F.dropout(share.to(value.dtype), dropout) @ value
    return attended if heads == groups else rearrange(attended, "b g (r t) e -> b (g r) t e", t=new)


def _later(new: int, length: int, like: Tensor) -> Tensor:
    """Which of `length` positions each of the last `new` may not see: (T, S) bool."""
    return torch.ones(new, length, dtype=torch.bool, device=like.device).triu(1 + length - new)
