"""The inner loop of every softmax head: log-probability of one token a row, and its gradients.

Design decisions:
- The forward pass stores g = exp(z - max), with the sum already taken off the target's entry. That is
  the gradient of the row up to one factor, so the backward pass is two matrix products and no pass
  over the logits: one exponential a logit in all, where softmax-then-subtract needs two.
- Taking the sum off in float32 before rounding keeps a confident row's gradient exact to its own
  rounding; p - y computed from a rounded p would lose it.
- The normaliser log sum exp z comes along where it is asked for: its gradient is the same g with the sum
  put back, so a z-loss costs one gathered row a token and no second pass over the logits.
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
    log_prob: Tensor = _OfStates.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), weight.to(dtype), target, bias, False
    )
    return log_prob


def target_log_prob_and_normalizer(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `target_log_prob`, with the log-normaliser log sum exp of each row: (N,), (N,)."""
    dtype = compute_dtype(hidden)
    both_2N: Tensor = _OfStates.apply(  # type: ignore[no-untyped-call]
        hidden.to(dtype), weight.to(dtype), target, bias, True
    )
    return both_2N[0], both_2N[1]


def logits_log_prob_and_normalizer(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax(logits)[target] and the log-normaliser: (N, V), (N,) -> (N,), (N,)."""
    both_2N: Tensor = _OfLogits.apply(logits, target)  # type: ignore[no-untyped-call]
    return both_2N[0], both_2N[1]


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product with `x` runs in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _exponentials(
    logits_NV: Tensor, target_N: Tensor, dtype: torch.dtype, in_place: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row gradients up to a factor (N, V) in dtype, their sums (N, 1), log p (N,), log-normalisers (N,)."""
    wide = _wide(logits_NV)
    target_N1 = target_N[:, None]
    chosen_N1 = logits_NV.gather(1, target_N1).to(wide)
    top_N1 = logits_NV.amax(1, keepdim=True).to(wide)
    if in_place or wide != logits_NV.dtype:
        exp_NV = logits_NV.to(wide).sub_(top_N1).exp_()
    else:
        exp_NV = (logits_NV - top_N1).exp_()
    total_N1 = exp_NV.sum(1, keepdim=True)
    at_target_N1 = (chosen_N1 - top_N1).exp() - total_N1
    gradient_NV = exp_NV.to(dtype)
    gradient_NV.scatter_(1, target_N1, at_target_N1.to(dtype))
    normalizer_N1 = top_N1 + total_N1.log()
    log_prob_N1 = chosen_N1 - top_N1 - total_N1.log()
    return gradient_NV, total_N1, log_prob_N1.squeeze(1), normalizer_N1.squeeze(1)


class _OfStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        bias_V: Tensor | None,
        with_normalizer: bool,
    ) -> Tensor:
        logits_NV = hidden_ND @ weight_VD.T
        if bias_V is not None:  # a large bias would round the logits
            logits_NV = logits_NV.to(_wide(logits_NV)).add_(bias_V)
        gradient_NV, total_N1, log_prob_N, normalizer_N = _exponentials(
            logits_NV, target_N, hidden_ND.dtype, in_place=True
        )
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, gradient_NV, total_N1)
        ctx.bias_dtype = None if bias_V is None else bias_V.dtype
        ctx.with_normalizer = with_normalizer
        return torch.stack([log_prob_N, normalizer_N]) if with_normalizer else log_prob_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None, None]:
        hidden_ND, weight_VD, target_N, gradient_NV, total_N1 = ctx.saved_tensors
        # d logits = onehot a + p (c - a) for upstream a of log p and c of the normaliser, which is
        # g (c - a) / total + onehot c, since g = total (p - onehot)
        on_log_prob_N, on_normalizer_N = upstream if ctx.with_normalizer else (upstream, None)
        both_N = on_log_prob_N if on_normalizer_N is None else on_log_prob_N - on_normalizer_N
        scale_N1 = -both_N[:, None] / total_N1
        d_hidden_ND = (gradient_NV @ weight_VD).to(scale_N1.dtype) * scale_N1
        scaled_ND = (hidden_ND.to(scale_N1.dtype) * scale_N1).to(hidden_ND.dtype)
        d_weight_VD = gradient_NV.T @ scaled_ND
        d_bias_V = None
        if ctx.bias_dtype is not None:
            d_bias_V = (gradient_NV.T @ scale_N1.to(gradient_NV.dtype)).squeeze(1).to(ctx.bias_dtype)
        if on_normalizer_N is not None:
            d_hidden_ND = d_hidden_ND + weight_VD[target_N].to(scale_N1.dtype) * on_normalizer_N[:, None]
            read_ND = (hidden_ND.to(scale_N1.dtype) * on_normalizer_N[:, None]).to(d_weight_VD.dtype)
            d_weight_VD = d_weight_VD.index_add(0, target_N, read_ND)
            if d_bias_V is not None:
                d_bias_V = d_bias_V.index_add(0, target_N, on_normalizer_N.to(d_bias_V.dtype))
        return d_hidden_ND.to(hidden_ND.dtype), d_weight_VD, None, d_bias_V, None


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor) -> Tensor:
        gradient_NV, total_N1, log_prob_N, normalizer_N = _exponentials(
            logits_NV, target_N, logits_NV.dtype, in_place=False
        )
        ctx.save_for_backward(target_N, gradient_NV, total_N1)
        return torch.stack([log_prob_N, normalizer_N])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_2N: Tensor) -> tuple[Tensor, None]:
        target_N, gradient_NV, total_N1 = ctx.saved_tensors
        on_log_prob_N, on_normalizer_N = upstream_2N
        scale_N1 = (on_normalizer_N - on_log_prob_N)[:, None] / total_N1
        d_logits_NV = (gradient_NV * scale_N1).to(gradient_NV.dtype)
        at_target_N1 = on_normalizer_N[:, None].to(d_logits_NV.dtype)
        return d_logits_NV.scatter_add_(1, target_N[:, None], at_target_N1), None
