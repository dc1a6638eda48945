"""What the head lets through of the gradient, and how many directions gradients have."""

from __future__ import annotations

import torch

from rankbound.heads.base import at_least_one
from rankbound.metrics import effective_rank, singular_values
from rankbound.metrics.gradient import descent_cosine, gradient_ranks, linear_descent_cosine
from rankbound.metrics.retention import jacobian_retention, linear_retention
from rankbound.training.measurements.base import Measurement, Reading
from rankbound.training.observed import Observed
from rankbound.training.when import SELDOM, When


class Retention(Measurement):
    """Squared share of the sampled gradient at the logits that reaches the hidden state.

    `relative` is over hidden_size / vocab_size, what a random subspace of that size keeps.

    Args:
        tokens: positions of the probe set, for a head that is the softmax of a linear map.
        jacobians: positions for any other head, each of which costs hidden_size derivatives.
        seed: chooses the positions.
        when: the steps to measure at; every 1,000, the first and the last if not given.
    """

    default_when = SELDOM

    def __init__(
        self, tokens: int = 256, jacobians: int = 8, seed: int = 0, when: When | None = None
    ) -> None:
        super().__init__(when)
        self.tokens = at_least_one("Retention's tokens", tokens)
        self.jacobians = at_least_one("Retention's jacobians", jacobians)
        self.seed = seed

    def __call__(self, seen: Observed) -> Reading:
        linear = seen.jacobian_map()
        hidden_ND, target_N = seen.sample(self.tokens if linear else self.jacobians, self.seed)
        wide_ND = hidden_ND.double()
        if linear is None:
            kept = jacobian_retention(seen.log_prob, wide_ND, target_N)
            descent = descent_cosine(seen.log_prob, wide_ND, target_N)
        else:
            weight_VD, bias_V = linear
            kept = linear_retention(wide_ND, weight_VD, target_N, bias=bias_V)
            descent = linear_descent_cosine(wide_ND, weight_VD, target_N, bias=bias_V)
        vocab_size = seen.log_prob(wide_ND[:1]).shape[1]
        return Reading(
            {
                "retention/share": kept.share,
                "retention/root": kept.root,
                "retention/relative": kept.relative(wide_ND.shape[1], vocab_size),
                "retention/descent_cosine": descent.cosine,
            }
        )


class GradientRanks(Measurement):
    """Proportional effective rank of every weight's gradient, and of the head input's, on the probe set."""

    default_when = SELDOM

    def __call__(self, seen: Observed) -> Reading:
        trained = {n: p for n, p in seen.model.named_parameters() if p.requires_grad}
        ranks = gradient_ranks(seen.loss(), trained)
        hidden_ND = seen.head_input.clone().requires_grad_()
        (gradient_ND,) = torch.autograd.grad(seen.loss(hidden_ND), hidden_ND)
        of_states = effective_rank(singular_values(gradient_ND))
        values = {f"gradient/{name}/per": rank for name, rank in ranks.items()}
        return Reading(values | {"gradient/head_input/effective_rank": of_states})
