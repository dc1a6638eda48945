"""Text token by token, from one model or two weighed against each other.

Where the text outgrows what a model reads, the older half of that falls away and what is left is read
anew: each token costs two readings of the window's half at most, and positions stay within those trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.model.cache import Cache
from rankbound.pretrained.sampling import Sampling, choose, contrasted
from rankbound.training.language_model import LanguageModel

#: Tokens so far -> log-probabilities of the next, (V,). Called with ever more of one text.
NextToken = Callable[[Sequence[int]], Tensor]


class Continuation:
    """Log-probabilities of the token after a growing text.

    Args:
        model: in evaluation mode, on any device.
        context: tokens that it reads at once.
        cached: keep keys and values of what was read; else read everything again for each token.
    """

    def __init__(self, model: LanguageModel, context: int, cached: bool = True) -> None:
        self._model, self._context, self._cached = model, context, cached
        self._first = 0  # of the tokens that the model has before it
        self._cache = self._empty()

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int]) -> Tensor:
        """(V,) after `ids`, which begin with those of the call before."""
        if len(ids) - self._first > self._context:
            self._first = len(ids) - max(1, self._context // 2)
            self._cache = self._empty()
        fresh = ids[self._first + (self._cache.length if self._cache else 0) :]
        device = self._model.body.embedding.weight.device
        hidden_BTD = self._model.body(torch.tensor([fresh], device=device), self._cache)
        return self._model.head.log_prob(hidden_BTD[:, -1])[0]

    def _empty(self) -> Cache | None:
        return self._model.body.cache() if self._cached else None


@dataclass(frozen=True)
class Contrast:
    """Two models' next token as one distribution; see `contrasted`."""

    first: NextToken
    second: NextToken
    weight: float
    other_weight: float

    def __call__(self, ids: Sequence[int]) -> Tensor:
        return contrasted(self.first(ids), self.second(ids), self.weight, self.other_weight)


def continued(
    prompt: Sequence[int],
    next_token: NextToken,
    sampling: Sampling,
    max_tokens: int,
    stops: Collection[int],
    generator: torch.Generator,
) -> Iterator[int]:
    """Tokens after `prompt`, until one of `stops` (not yielded) or `max_tokens` of them.

    Raises:
        InputError: nothing to begin with, or a model whose probabilities are no numbers.
    """
    if not prompt:
        raise InputError("this model has no token that a text begins with: give a prompt")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; it must be at least 1")
    ids = list(prompt)
    for _ in range(max_tokens):
        token = choose(next_token(ids), sampling, generator)
        if token in stops:
            return
        ids.append(token)
        yield token
