"""The inner loop of every softmax head: log-probability of one token a row, and its gradients.

Design decisions:
- The forward pass stores g = exp(z - max), with the sum already taken off the target's entry. That is
  the gradient of the row up to one factor, so the backward pass is two matrix products and no pass
  over the logits: one exponential a logit in all, where softmax-then-subtract needs two.
- Taking the sum off in float32 before rounding keeps a confident row's gradient exact to its own
  rounding; p - y computed from a rounded p would lose it.
- Plain tensor operations only, so torch.compile fuses them and eager mode runs without a compiler.
- Memory is one (N, V) matrix in the compute dtype (plus a float32 one in eager mode): callers bound N.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def target_log_prob(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[target], never more than one (N, V) matrix.

    Shapes: hidden (N, D), weight (V, D), target (N,) int64, bias (V,) -> (N,), float32 or float64.
    Matrix products run in the dtype of autocast where it is on, else in hidden's.
    """
    dtype = compute_dtype(hidden)
    log_prob: Tensor = _TargetLogProb.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), weight.to(dtype), target, bias
    )
    return log_prob


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product with `x` runs in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _TargetLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, bias_V: Tensor | None
    ) -> Tensor:
        logits_NV = hidden_ND @ weight_VD.T
        if bias_V is not None:
            logits_NV = logits_NV + bias_V.to(logits_NV.dtype)
        wide = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
        target_N1 = target_N[:, None]
        chosen_N1 = logits_NV.gather(1, target_N1).to(wide)
        top_N1 = logits_NV.amax(1, keepdim=True).to(wide)
        exp_NV = logits_NV.to(wide).sub_(top_N1).exp_()  # in place: the logits are not needed again
        total_N1 = exp_NV.sum(1, keepdim=True)
        at_target_N1 = (chosen_N1 - top_N1).exp() - total_N1
        gradient_NV = exp_NV.to(logits_NV.dtype)
        gradient_NV.scatter_(1, target_N1, at_target_N1.to(logits_NV.dtype))
        ctx.save_for_backward(hidden_ND, weight_VD, gradient_NV, total_N1)
        ctx.bias_dtype = None if bias_V is None else bias_V.dtype
        return (chosen_N1 - top_N1 - total_N1.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None]:
        hidden_ND, weight_VD, gradient_NV, total_N1 = ctx.saved_tensors
        scale_N1 = -upstream_N[:, None] / total_N1
        d_hidden = ((gradient_NV @ weight_VD).to(scale_N1.dtype) * scale_N1).to(hidden_ND.dtype)
        scaled_ND = (hidden_ND.to(scale_N1.dtype) * scale_N1).to(hidden_ND.dtype)
        d_weight = gradient_NV.T @ scaled_ND
        d_bias = None
        if ctx.bias_dtype is not None:
            d_bias = (gradient_NV.T @ scale_N1.to(gradient_NV.dtype)).squeeze(1).to(ctx.bias_dtype)
        return d_hidden, d_weight, None, d_bias
