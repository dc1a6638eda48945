"""Rotary positions (Su et al. 2021), GPT-NeoX's pairing: dimension i turns with i + rotated/2.

The table is float32 whatever the model's dtype: an angle of 2,000 radians in bfloat16 is off by 8.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotated_size(head_size: int, rotary_pct: float) -> int:
    """Rotated dimensions of a head: an even number, and two where the share would round to none."""
    return max(2, 2 * round(head_size * rotary_pct / 2)) if rotary_pct > 0 else 0


def rotary_table(positions: int, rotated: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (positions, rotated), float32."""
    frequency = base ** -(torch.arange(0, rotated, 2, dtype=torch.float64) / max(rotated, 1))
    angle = torch.outer(torch.arange(positions, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTE: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the first R dimensions of each head by position; the others pass."""
    rotated = cos_TR.shape[-1]
    if rotated == 0:
        return x_BHTE
    turned, passed = x_BHTE[..., :rotated], x_BHTE[..., rotated:]
    first, second = turned.chunk(2, dim=-1)
    partner = torch.cat((-second, first), dim=-1)
    turned = turned * cos_TR.to(x_BHTE.dtype) + partner * sin_TR.to(x_BHTE.dtype)
    return torch.cat((turned, passed), dim=-1)
