"""What a narrow head cannot express against what it cannot teach.

A rank-r head does two things to a model: it writes log-probabilities of rank r, and its gradient reaches
the trunk through r directions (the gradient bottleneck, Godey & Artzi 2026). These heads do one of them:

                     read at rank r        read in full
    taught at rank r `Factorized`          `TaughtFactorized`, `BackwardFactorized`
    taught in full   `ForwardFactorized`   `Linear`

`ForwardFactorized` and `TaughtFactorized` hold two heads with an exact objective each: the value comes
from one (it reads the state detached), the trunk's gradient from the other. `BackwardFactorized` is one
full head whose residual reaches the trunk through r directions of its own matrix; its weights learn in
full. The two ways of teaching at rank r differ: the residual p - y is the rank-r head's in one and the
full head's in the other.

No straight-through estimator: it drifts in the directions that the value does not see.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import Factors, Head, LinearMap, at_least_one, one_of
from rankbound.heads.linear import Factorized, Linear
from rankbound.heads.softmax import SoftmaxHead


class _TwoHeads(Head):
    gradient_is_exact = False
    changes_ranking = False

    def __init__(self, reads: Linear | Factorized, teaches: Linear | Factorized, rank: int) -> None:
        super().__init__(reads.hidden_size, reads.vocab_size)
        self.reads = reads
        self.teaches = teaches
        self.rank = rank

    def log_prob(self, hidden: Tensor) -> Tensor:
        taught = self.teaches.log_prob(hidden)
        return self.reads.log_prob(hidden.detach()) + (taught - taught.detach())

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        taught = self.teaches.nll(hidden, target)
        return self.reads.nll(hidden.detach(), target) + (taught - taught.detach())

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        nll, normalizer = self.reads.nll_and_normalizers(hidden.detach(), target)
        taught_nll, taught_normalizer = self.teaches.nll_and_normalizers(hidden, target)
        return nll + (taught_nll - taught_nll.detach()), torch.cat([normalizer, taught_normalizer], 1)

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), of the head that reads."""
        return self.reads.linear_logits(hidden)

    def factors(self, hidden: Tensor) -> Factors:
        return self.reads.factors(hidden)

    def linear_map(self) -> LinearMap:
        return self.reads.linear_map()

    def declared_gradients(self, hidden: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The teaching head's loss decides the state's gradient and its own, the reading head's its own."""
        state = hidden.detach().requires_grad_()
        gradients: dict[str, Tensor] = {}
        for name in ("reads", "teaches"):
            head = cast(SoftmaxHead, getattr(self, name))
            loss = F.cross_entropy(head.logits(state), target, reduction="sum")
            wanted = {"hidden": state} | {f"{name}.{n}": p for n, p in head.named_parameters()}
            # `teaches` comes last: the state's gradient is its
            gradients |= dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
        return gradients

    @property
    def rank_bound(self) -> int:
        return self.reads.rank_bound

    @property
    def backward_rank_bound(self) -> int:
        return self.teaches.backward_rank_bound

    @property
    def state_backward_rank_bound(self) -> int:
        return self.teaches.state_backward_rank_bound

    def matrices(self) -> dict[str, Tensor]:
        (read,), (taught,) = self.reads.matrices().values(), self.teaches.matrices().values()
        return {"reads": read, "teaches": taught}

    @property
    def parameter_count(self) -> int:
        return self.reads.parameter_count + self.teaches.parameter_count

    def flops_per_token(self) -> int:
        return self.reads.flops_per_token() + self.teaches.flops_per_token()

    @property
    def logits_per_token(self) -> int:
        return 2 * self.vocab_size

    def tie(self, weight: nn.Parameter) -> None:
        """The full head teaches with the embedding's matrix."""
        self.teaches.tie(weight)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


class ForwardFactorized(_TwoHeads):
    """p = softmax(A B h), read at rank r; the trunk learns from softmax(W h), taught in full.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        rank: r, of the head that reads.
    """

    def __init__(self, hidden_size: int, vocab_size: int, rank: int = 16) -> None:
        reads = Factorized(hidden_size, vocab_size, at_least_one("ForwardFactorized's rank", rank))
        super().__init__(reads, Linear(hidden_size, vocab_size), rank)


class TaughtFactorized(_TwoHeads):
    """p = softmax(W h), read in full; the trunk learns from softmax(A B h), taught at rank r.

    The trunk's gradient is exactly that of `Factorized`, before its norm is clipped over both heads.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        rank: r, of the head that teaches.
    """

    def __init__(self, hidden_size: int, vocab_size: int, rank: int = 16) -> None:
        teaches = Factorized(hidden_size, vocab_size, at_least_one("TaughtFactorized's rank", rank))
        super().__init__(Linear(hidden_size, vocab_size), teaches, rank)

    def tie(self, weight: nn.Parameter) -> None:
        """Refused: through a shared matrix the full head would teach the trunk after all."""
        raise InputError(
            "TaughtFactorized cannot be tied: the embedding would learn from the full head; "
            "set tie_word_embeddings to false"
        )


class BackwardFactorized(Linear):
    """p = softmax(W h); the state's gradient is multiplied by P = Q Q', Q (D, r) orthonormal.

    Under Adam the smaller gradient is mostly rescaled, under clipping it is not: watch the gradient's norm.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        rank: r, from 1 to hidden_size.
        subspace: Q is the `top` right singular vectors of W, or `random` and fixed.
        refresh: optimiser steps between two computations of a `top` Q.
    """

    gradient_is_exact = False
    basis: Tensor

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        rank: int = 16,
        subspace: Literal["top", "random"] = "top",
        refresh: int = 20,
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        if at_least_one("BackwardFactorized's rank", rank) > hidden_size:
            raise InputError(
                f"BackwardFactorized's rank is {rank}; it must be from 1 to hidden_size = {hidden_size}"
            )
        self.rank = rank
        self.subspace = one_of("BackwardFactorized's subspace", subspace, ("top", "random"))
        self.refresh = at_least_one("BackwardFactorized's refresh", refresh)
        random = nn.init.orthogonal_(torch.empty(hidden_size, rank))
        self.register_buffer("basis", random)
        self.before_step(0)

    def before_step(self, step: int) -> None:
        if self.subspace == "top" and step % self.refresh == 0 and not self.weight.is_meta:
            weight = self.weight.detach().double()
            gram = weight.T @ weight
            if gram.isfinite().all():  # else the run has diverged, which its loss reports
                vectors = torch.linalg.eigh(gram).eigenvectors  # ascending eigenvalues
                self.basis.copy_(vectors[:, -self.rank :])

    def features(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):  # a rounded P has rank D
            kept = hidden @ self.basis.to(hidden.dtype) @ self.basis.to(hidden.dtype).T
            return hidden.detach() + (kept - kept.detach())

    def declared_gradients(self, hidden: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`Linear`'s, the state's times Q Q'."""
        state = hidden.detach().requires_grad_()
        loss = F.cross_entropy(F.linear(state, self.weight), target, reduction="sum")
        on_state, on_weight = torch.autograd.grad(loss, [state, self.weight])
        return {"hidden": on_state @ self.basis @ self.basis.T, "weight": on_weight}

    @property
    def backward_rank_bound(self) -> int:
        return min(self.vocab_size, self.rank + 1)

    @property
    def state_backward_rank_bound(self) -> int:
        return min(self.rank, super().state_backward_rank_bound)

    def flops_per_token(self) -> int:
        return super().flops_per_token() + 4 * self.rank * self.hidden_size

    def tie(self, weight: nn.Parameter) -> None:
        super().tie(weight)
        self.before_step(0)

    def extra_repr(self) -> str:
        refresh = f", refresh={self.refresh}" if self.subspace == "top" else ", subspace=random"
        return f"rank={self.rank}{refresh}"
