"""Rotary positions (Su et al. 2021), GPT-NeoX's pairing: dimension i turns with i + rotated/2.

The table is float32 whatever the model's dtype: an angle of 2,000 radians in bfloat16 is off by 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.errors import InputError


@dataclass(frozen=True)
class RotaryScaling:
    """Slower rotation for sequences longer than those a model was first trained on.

    Args:
        factor: every frequency is divided by it (position interpolation), or, with the others given,
            only low ones, as Llama 3.1 does.
        low_freq_factor: turns over the original length below which a frequency is divided.
        high_freq_factor: turns above which it stays; between both it goes over smoothly.
        original_max_position_embeddings: the original length.
    """

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None

    def __post_init__(self) -> None:
        given = [
            v is not None
            for v in (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings)
        ]
        if not self.factor > 0 or any(given) != all(given):
            raise InputError(
                f"rotary_scaling has factor {self.factor}, which must be positive, and of low_freq_factor, "
                "high_freq_factor and original_max_position_embeddings all are given or none"
            )
        if all(given) and not self.low_freq_factor < self.high_freq_factor:  # type: ignore[operator]
            raise InputError("rotary_scaling.low_freq_factor must be below high_freq_factor")


def rotated_size(head_size: int, rotary_pct: float) -> int:
    """Rotated dimensions of a head: an even number, and two where the share would round to none."""
    return max(2, 2 * round(head_size * rotary_pct / 2)) if rotary_pct > 0 else 0


def rotary_table(
    positions: int, rotated: int, base: float, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (positions, rotated), float32."""
    frequency = base ** -(torch.arange(0, rotated, 2, dtype=torch.float64) / max(rotated, 1))
    if scaling is not None:
        frequency = _scaled(frequency, scaling)
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
    return torch.cat((turned, passed), dim=-1) if passed.shape[-1] else turned


def _scaled(frequency: Tensor, scaling: RotaryScaling) -> Tensor:
    divided = frequency / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    length = scaling.original_max_position_embeddings
    if low is None or high is None or length is None:
        return divided
    turns = frequency * length / (2 * math.pi)
    return torch.lerp(divided, frequency, ((turns - low) / (high - low)).clamp(0, 1))
