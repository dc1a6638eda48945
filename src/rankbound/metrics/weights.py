"""Rank of a model's weights, and of what attention's value and output weights do together.

Design decisions:
- Head h of attention moves values by W_O[:, h] W_V[h], a (D, D) matrix of rank head_size at most. Its
  singular values are those of the product of the two factors' triangles, head_size x head_size, so no
  head's (D, D) product is ever made. The sum over heads, W_O W_V, is; it has D values, zeros included.
- PER divides by the number of values: head_size for a head, D for the whole.
- A fused query-key-value weight says nothing about its own layout, so the caller names it. The published
  code of Diehl Martinez et al. 2024 takes the last third of the rows for V. That is right for rows
  [Q of all heads, K of all heads, V of all heads], but GPT-NeoX, which it measures, keeps [q, k, v] by
  head: there the last third is q, k and v of the last third of the heads.

Shapes: D hidden_size, H num_heads, G num_key_value_heads (H unless heads share values), E head_size;
value_weight (G E, D), output_weight (D, H E) as nn.Linear has them, any float dtype; results are float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.metrics.singular import singular_values
from rankbound.metrics.spectrum import proportional_effective_rank

Layout = Literal["three_heads", "per_head"]


def weight_ranks(module: nn.Module) -> dict[str, float]:
    """Proportional effective rank (Diehl Martinez et al. 2024) of every weight matrix, by parameter name.

    Matrices are the parameters of two dimensions, stored either way round; a tied one comes once, by its
    first name. NaN where a weight is not finite, 0 where it is all zero.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
    >>> weight_ranks(layer)
    {'weight': 1.0}
    """
    matrices = {name: weight for name, weight in module.named_parameters() if weight.ndim == 2}
    return {
        name: float(proportional_effective_rank(singular_values(weight)))
        for name, weight in matrices.items()
        if weight.numel()
    }


def value_weight(fused_qkv: Tensor, num_heads: int, layout: Layout) -> Tensor:
    """The value rows (H E, D) of a fused query-key-value weight (3 H E, D), heads in order.

    Args:
        fused_qkv: as nn.Linear stores it. GPT-2's Conv1D stores the transpose: give `c_attn.weight.T`.
        num_heads: H, each with its own values.
        layout: order of the rows. `three_heads`: [Q, K, V], each of all heads (this project's models,
            GPT-2). `per_head`: for each head [q, k, v] (GPT-NeoX in Hugging Face's form).

    >>> rows = torch.arange(6.0)[:, None]  # two heads of one row
    >>> value_weight(rows, 2, "three_heads").T
    tensor([[4., 5.]])
    >>> value_weight(rows, 2, "per_head").T
    tensor([[2., 5.]])
    """
    if fused_qkv.ndim != 2 or num_heads < 1 or fused_qkv.shape[0] % (3 * num_heads):
        raise InputError(
            f"fused_qkv has shape {tuple(fused_qkv.shape)}; its rows must be 3 x {num_heads} x head_size"
        )
    if layout == "three_heads":
        return fused_qkv[2 * (fused_qkv.shape[0] // 3) :]
    if layout == "per_head":
        by_head: Tensor = rearrange(fused_qkv, "(h three e) d -> three (h e) d", h=num_heads, three=3)
        return by_head[2]
    raise InputError(f"layout is {layout!r}; known are 'three_heads' and 'per_head'")


def output_value(
    value_weight: Tensor, output_weight: Tensor, num_heads: int, num_key_value_heads: int | None = None
) -> Tensor:
    """W_O[:, h] W_V[h] of each head: (H, D, D), whose sum over heads is W_O W_V.

    Holds H D D float64; for spectra alone `output_value_spectra` is far cheaper.

    >>> output_value(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), num_heads=2)[0]
    tensor([[0., 0.],
            [1., 0.]], dtype=torch.float64)
    """
    output, value = _by_head(value_weight, output_weight, num_heads, num_key_value_heads)
    return output @ value


def output_value_gradient(
    value_weight: Tensor,
    output_weight: Tensor,
    value_gradient: Tensor,
    output_gradient: Tensor,
    num_heads: int,
    num_key_value_heads: int | None = None,
) -> Tensor:
    """grad W_O W_V + W_O grad W_V of each head (Diehl Martinez et al. 2024): (H, D, D).

    The product's first-order change when both weights move by their gradients, which is not the loss's
    gradient by the product. The sum over heads is the whole. Gradients have the shapes of their weights.
    """
    output, value = _gradient_factors(
        value_weight, output_weight, value_gradient, output_gradient, num_heads, num_key_value_heads
    )
    return output @ value


def output_value_spectra(
    value_weight: Tensor, output_weight: Tensor, num_heads: int, num_key_value_heads: int | None = None
) -> tuple[Tensor, Tensor]:
    """Singular values of W_O W_V, (D,), and of each head's part, (H, min(E, D)); largest first.

    NaN where not finite: a head with such a weight, and the whole.

    >>> whole, heads = output_value_spectra(torch.eye(4), 2 * torch.eye(4), num_heads=2)
    >>> whole.tolist(), heads.tolist()
    ([2.0, 2.0, 2.0, 2.0], [[2.0, 2.0], [2.0, 2.0]])
    """
    return _spectra(*_by_head(value_weight, output_weight, num_heads, num_key_value_heads))


def output_value_gradient_spectra(
    value_weight: Tensor,
    output_weight: Tensor,
    value_gradient: Tensor,
    output_gradient: Tensor,
    num_heads: int,
    num_key_value_heads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Singular values of `output_value_gradient`: the whole's (D,), each head's (H, min(2 E, D))."""
    return _spectra(
        *_gradient_factors(
            value_weight, output_weight, value_gradient, output_gradient, num_heads, num_key_value_heads
        )
    )


def _by_head(
    value_weight: Tensor, output_weight: Tensor, num_heads: int, num_key_value_heads: int | None
) -> tuple[Tensor, Tensor]:
    """Output (H, D, E) and value (H, E, D) float64 factors, shared values repeated."""
    groups = num_heads if num_key_value_heads is None else num_key_value_heads
    if (
        value_weight.ndim != 2
        or output_weight.ndim != 2
        or not value_weight.numel() * output_weight.numel()
    ):
        raise InputError(
            "value_weight and output_weight must be matrices with entries, not of shapes "
            f"{tuple(value_weight.shape)} and {tuple(output_weight.shape)}"
        )
    size = output_weight.shape[1] // max(num_heads, 1)
    fits = size and output_weight.shape[1] == num_heads * size and value_weight.shape[0] == groups * size
    if not fits or groups < 1 or num_heads % groups or output_weight.shape[0] != value_weight.shape[1]:
        raise InputError(
            f"value_weight {tuple(value_weight.shape)} and output_weight {tuple(output_weight.shape)} do "
            f"not fit {num_heads} heads over {groups} of values; give (G E, D) and (D, H E)"
        )
    output = rearrange(output_weight.detach().double(), "d (h e) -> h d e", h=num_heads)
    value = repeat(value_weight.detach().double(), "(g e) d -> (g r) e d", g=groups, r=num_heads // groups)
    return output, value


def _gradient_factors(
    value_weight: Tensor,
    output_weight: Tensor,
    value_gradient: Tensor,
    output_gradient: Tensor,
    num_heads: int,
    num_key_value_heads: int | None,
) -> tuple[Tensor, Tensor]:
    """Factors (H, D, 2 E) and (H, 2 E, D) of the product rule: [grad W_O, W_O] [W_V; grad W_V]."""
    output, value = _by_head(value_weight, output_weight, num_heads, num_key_value_heads)
    output_step, value_step = _by_head(value_gradient, output_gradient, num_heads, num_key_value_heads)
    if output_step.shape != output.shape or value_step.shape != value.shape:
        raise InputError("a gradient has another shape than its weight; give both as the weights are")
    return torch.cat([output_step, output], 2), torch.cat([value, value_step], 1)


def _spectra(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of the sum of the products left[h] right[h], and of each one."""
    width = left.shape[1]
    whole = torch.einsum("hde,hef->df", left, right)
    heads = _triangle(left) @ _triangle(right.mT).mT if left.shape[2] < width else left @ right
    finite = torch.isfinite(heads).flatten(1).all(1)
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], heads, 0.0))
    return singular_values(whole), torch.where(finite[:, None], values, torch.nan)


def _triangle(tall: Tensor) -> Tensor:
    """R of the QR of each (D, E): same inner products, E x E; NaN where it is not finite."""
    finite = torch.isfinite(tall).flatten(1).all(1)[:, None, None]
    triangle: Tensor = torch.linalg.qr(torch.where(finite, tall, 0.0), mode="r").R
    return torch.where(finite, triangle, torch.nan)
