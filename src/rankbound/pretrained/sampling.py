"""How the next token is chosen from log-probabilities: pure functions of (V,) tensors.

Temperature, then the k likeliest, then the nucleus, each on what the one before left: the order of
`transformers`. Two models' distributions are weighed against each other before any of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How to choose.

    - `temperature`: divides log-probabilities; below 1 favours likely tokens
    - `top_k`: only the k likeliest; equals of the last one stay
    - `top_p`: only the fewest likeliest that together have this probability (Holtzman et al. 2020)
    - `greedy`: the likeliest token, whatever the others say
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(
                f"temperature is {self.temperature}; it must be positive and finite; to take the likeliest "
                "token, say greedy"
            )
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


def choose(log_prob: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token of log-probabilities (V,), drawn by `generator` (of the same device) unless greedy."""
    if bool(log_prob.isnan().any()):
        raise InputError("the model gives log-probabilities that are no numbers (NaN): are its weights?")
    if sampling.greedy:
        return int(log_prob.argmax())
    return int(torch.multinomial(restricted(log_prob, sampling).exp(), 1, generator=generator))


def restricted(log_prob: Tensor, sampling: Sampling) -> Tensor:
    """The log-probabilities (V,) that tokens are drawn by, normalised; -inf where one is left out."""
    scaled = log_prob / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(scaled):
        least = scaled.topk(sampling.top_k).values[-1]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    scaled = scaled.log_softmax(0)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = scaled.sort(descending=True)
        likelier = ordered.exp().cumsum(0) - ordered.exp()
        scaled = scaled.masked_fill(_at(order, likelier >= sampling.top_p), -torch.inf).log_softmax(0)
    return scaled


def contrasted(log_prob: Tensor, other: Tensor, weight: float, other_weight: float) -> Tensor:
    """log of weight x p + other_weight x q, negatives dropped, normalised (Xia et al. 2023): (V,) float64.

    Where no token keeps anything positive, those with the largest sum share the probability. Sizes may
    differ by padding: tokens that only one model has are left out.

    >>> p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.2, 0.6]).log()
    >>> contrasted(p, q, 1.0, -1.0).exp()
    tensor([0.7500, 0.2500, 0.0000], dtype=torch.float64)
    """
    size = min(len(log_prob), len(other))
    weighed = weight * log_prob[:size].double().exp() + other_weight * other[:size].double().exp()
    kept = weighed.clamp(min=0)
    if not bool(kept.any()):
        kept = (weighed == weighed.max()).double()
    return (kept / kept.sum()).log()


def check_weights(weight: float, other_weight: float) -> None:
    """Raise unless the weights are in [-1, 1], as in the paper, and one is positive."""
    for value in (weight, other_weight):
        if not -1 <= value <= 1:
            raise InputError(f"a weight is {value}; weights of two models lie from -1 to 1")
    if max(weight, other_weight) <= 0:
        raise InputError(f"weights are {weight} and {other_weight}: one at least must be positive")


def _at(order: Tensor, values: Tensor) -> Tensor:
    """`values` of the sorted tokens, put back where they were."""
    return torch.empty_like(values).scatter(0, order, values)
