"""A linear head behind a norm, as rows over directions: which states it can be fed, and who wins there.

A norm fixes the length of the states and, for a LayerNorm, their mean. Gain and mean go into the rows
(D - 1 coordinates behind a LayerNorm), the shift into the bias. What is left is |n| = sqrt(D), which
matters only where some bias differs from the others.

Shapes: weight (V, D), bias (V,), gain and shift (D,), any float dtype; everything here is float64, on the
weight's device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankbound.errors import InputError


class LinearHead:
    """Logits W h + b over the states that a norm allows.

    Attributes:
        rows: (V, E) centred; the score of token y at direction x is rows[y] x. Where some bias differs
            (`lifted`), x = (n, t) stands for the state n / (scale t), and the last column is the bias,
            scaled to the length of the rows.
        mean: (E,) what centring took from each row.
        radius: |n| / t where the norm fixes it and it matters, else None.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: str = "free",
        gain: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        self.weight = weight.detach().double()
        vocab, self.size = weight.shape
        self.norm = norm
        self.bias = self.weight.new_zeros(vocab) if bias is None else bias.detach().to(self.weight)
        self.gain = self.weight.new_ones(self.size) if gain is None else gain.detach().to(self.weight)
        self.shift = self.weight.new_zeros(self.size) if shift is None else shift.detach().to(self.weight)
        self.longest = float(self.weight.norm(dim=1).max())

        rows = self.weight * self.gain
        if norm == "layernorm":
            rows = _turned(rows)[:, 1:]
        offset = self.bias + self.weight @ self.shift
        self.lifted = bool(offset.max() > offset.min())
        self.mean = rows.mean(0)
        rows = rows - self.mean
        self.scale = 1.0
        if self.lifted:
            offset -= offset.mean()
            self.scale = float(rows.norm(dim=1).max() / offset.abs().max()) or 1.0
            rows = torch.cat([rows, self.scale * offset[:, None]], 1)
            self.mean = torch.cat([self.mean, self.mean.new_zeros(1)])
        self.rows = rows
        self.radius = math.sqrt(self.size) * self.scale if self.lifted and norm != "free" else None

    def allowed(self, directions: Tensor) -> Tensor:
        """Directions (..., E) with t moved to where states are: at least 0, or as the radius says."""
        if not self.lifted:
            return directions
        value, t = directions[..., :-1], directions[..., -1:]
        t = t.clamp(min=0) if self.radius is None else value.norm(dim=-1, keepdim=True) / self.radius
        return torch.cat([value, t], -1)

    def state(self, direction: Tensor, token: int) -> Tensor:
        """The head's input (D,) for an allowed direction (E,) at which the token wins."""
        value = direction[:-1] if self.lifted else direction
        if self.norm == "layernorm":
            value = _turned(torch.cat([value.new_zeros(1), value]))
        if self.norm != "free":
            sphere: Tensor = self.gain * value * (math.sqrt(self.size) / value.norm()) + self.shift
            return sphere
        t = direction[-1] if self.lifted else value.norm()
        if t <= 0:  # wins at every length above some: half of the t that the biases allow
            margins = (self.rows[token, :-1] - self.rows[:, :-1]) @ value
            debts = (self.rows[:, -1] - self.rows[token, -1]).clamp(min=0)
            t = 1 / (2 * torch.where(debts > 0, debts / margins, 0.0).max() + 1 / value.norm())
        free: Tensor = value / (self.scale * t)
        return free

    def wins(self, token: int, state: Tensor) -> bool:
        """Whether the token's logit at a state (D,) is above all others, beyond rounding."""
        logits = self.weight @ state + self.bias
        own = logits[token].clone()
        logits[token] = -torch.inf
        size = state.norm() * self.longest + self.bias.abs().max()
        return bool(own - logits.max() > rounding(self.size, torch.float64) * size)


def rounding(length: int, dtype: torch.dtype) -> float:
    """Bound on the error of the difference of two inner products, over the product of the norms."""
    return (length + 4) * torch.finfo(dtype).eps


def _turned(rows: Tensor) -> Tensor:
    """Rows (..., D) reflected so that the direction of all ones becomes the first axis, and back again."""
    size = rows.shape[-1]
    mirror = torch.full((size,), size**-0.5, dtype=rows.dtype, device=rows.device)
    mirror[0] -= 1
    mirror /= mirror.norm()
    return rows - 2 * (rows @ mirror)[..., None] * mirror


def check_head(
    weight: Tensor,
    bias: Tensor | None,
    norm: str,
    gain: Tensor | None,
    shift: Tensor | None,
    states: Tensor | None,
) -> None:
    """InputError for a wrong shape, fewer than two tokens, numbers not finite, a gain of no norm."""
    if weight.ndim != 2 or weight.shape[0] < 2 or weight.shape[1] < 1:
        raise InputError(f"weight has shape {tuple(weight.shape)}; give (V, D) with at least two tokens")
    vocab, size = weight.shape
    if norm not in ("free", "layernorm", "rmsnorm"):
        raise InputError(f"norm is {norm!r}; give 'free', 'layernorm' or 'rmsnorm'")
    if norm == "free" and (gain is not None or shift is not None):
        raise InputError(
            "gain and shift belong to a norm; name it ('layernorm', 'rmsnorm') or leave them out"
        )
    if norm == "layernorm" and size < 2:
        raise InputError(
            "a LayerNorm over one dimension has one output only; give weight (V, D) with D >= 2"
        )
    given = {
        "weight": (weight, (vocab, size)),
        "bias": (bias, (vocab,)),
        "gain": (gain, (size,)),
        "shift": (shift, (size,)),
        "states": (states, (len(states) if states is not None and states.ndim else 0, size)),
    }
    for name, (tensor, shape) in given.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}; {shape} would fit the weight")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name} has values that are not finite; give a head without NaN and infinity")
