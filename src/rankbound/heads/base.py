"""What a head is: a distribution over the next token, not a matrix of logits.

Design decisions:
- `log_prob` and `nll` are the whole interface to training, evaluation and metrics. Mixtures have no
  logits, so nothing asks for them.
- A head declares what it can express (`rank_bound`), what it can teach (`backward_rank_bound`,
  `state_backward_rank_bound`) and whether it can rank tokens as no linear head of its width can
  (`changes_ranking`); contract tests hold every declaration against random parameters in float64.
- What those sizes cost is declared too (`parameter_count`, `flops_per_token`), by formula, and tested.
- Probabilities are computed in float32 at least: a bfloat16 logit is good to 2-3 digits.
- A head is one file in this folder; importing the package finds it.

Shapes: N rows, D hidden size, V vocabulary, K components, R rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rankbound.errors import InputError

Factors = tuple[Tensor, Tensor, Tensor | None]
LinearMap = tuple[Tensor, Tensor | None]


class Head(nn.Module, ABC):
    """A map from hidden states to distributions over the vocabulary.

    Args:
        hidden_size: width of the states that come in.
        vocab_size: number of tokens.
    """

    #: False where the gradient that reaches the hidden state is cut on purpose; `declared_gradients` then
    #: says to what.
    gradient_is_exact: ClassVar[bool] = True
    #: False where `nll` has shapes that depend on the data: torch.compile would compile each anew.
    compiles: ClassVar[bool] = True
    #: The size among the arguments, None by default, that may be solved for to match a budget without
    #: changing what the head is for.
    free_size: ClassVar[str | None] = None
    #: False for strictly increasing, token-independent maps of linear logits; such a head has the method
    #: `linear_logits`, (N, D) -> (N, V).
    changes_ranking: bool = True

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.hidden_size = at_least_one("hidden_size", hidden_size)
        self.vocab_size = at_least_one("vocab_size", vocab_size)

    @abstractmethod
    def log_prob(self, hidden: Tensor) -> Tensor:
        """Log-probabilities in nats: (N, D) -> (N, V), float32, or hidden's dtype if that is wider."""

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of `target` (N,) int64, in nats: (N, D), (N,) -> (N,)."""
        return -self.log_prob(hidden).gather(1, target[:, None]).squeeze(1)

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`nll`, and log sum exp of the logits of every softmax inside: (N, D), (N,) -> (N,), (N, K)."""
        raise InputError(f"{type(self).__name__} does not tell its normalisers, so z_loss must be 0")

    @property
    @abstractmethod
    def rank_bound(self) -> int | None:
        """Largest rank of the (N, V) log-probability matrix over any states; None = min(N, V)."""

    @property
    def effective_rank_bound(self) -> int | None:
        """The rank at a relative tolerance of 1e-3 for logits of standard deviation up to 1.5."""
        return self.rank_bound

    @property
    def backward_rank_bound(self) -> int | None:
        """Largest dimension of the span of d log p / d hidden over all states; None = min(N, V)."""
        return self.rank_bound

    @property
    def state_backward_rank_bound(self) -> int:
        """Largest rank of d log p / d hidden at one state."""
        return min(self.hidden_size, self.vocab_size - 1)

    @abstractmethod
    def matrices(self) -> dict[str, Tensor]:
        """Matrices whose spectrum is recorded by name: (V, D), or (V, E) from E features of the state.

        A mixture names its own `component_K`; of others the first, the one that reads, is what tables show.
        """

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Trainable numbers, those of a tied matrix included."""

    @abstractmethod
    def flops_per_token(self) -> int:
        """Operations of `log_prob`'s matrix products for one row; a multiply-add counts two."""

    @property
    def logits_per_token(self) -> int:
        """How many logits `nll` holds for a row at once; decides how many rows fit a chunk."""
        return self.vocab_size

    def forward(self, hidden: Tensor) -> Tensor:
        """`log_prob` of states in any shape, (.., D) -> (.., V), for models that call their head."""
        return self.log_prob(hidden.flatten(0, -2)).view(*hidden.shape[:-1], -1)

    def factors(self, hidden: Tensor) -> Factors | None:
        """Features f(h) (N, E), W (V, E) and b (V,) or None where p = softmax(W f(h) + b); else None."""
        return None

    def linear_map(self) -> LinearMap | None:
        """W (V, D) and b (V,) or None of logits W h + b that order tokens as this head does; else None."""
        if self.changes_ranking:
            return None
        logits = cast(Any, self).linear_logits
        like = next(self.parameters())
        bias_V = logits(like.new_zeros(1, self.hidden_size))[0]
        weight_DV = logits(torch.eye(self.hidden_size, dtype=like.dtype, device=like.device)) - bias_V
        return weight_DV.T, bias_V

    def penalty(self, hidden: Tensor) -> Tensor | None:
        """What training adds to the mean loss of a batch of states (N, D), a scalar; None for nothing."""
        return None

    def statistics(self, hidden: Tensor) -> dict[str, Tensor]:
        """Scalars worth recording on a probe's states (N, D), by name."""
        return {}

    def before_step(self, step: int) -> None:
        """Called before each optimiser step, with the number of those done; for what follows the weights.

        It must be a function of the weights and the step alone, so that a resumed run repeats it.
        """

    def declared_gradients(self, hidden: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Gradients of the summed `nll` where it is cut: `hidden` and every parameter by name.

        Written from the definition, by other means than `nll`: a statement to hold `nll` against.
        """
        raise NotImplementedError

    def tie(self, weight: nn.Parameter) -> None:
        """Share the embedding's (V, D) matrix instead of the head's own `weight`, where that is one."""
        own = getattr(self, "weight", None)
        if own is None or tuple(own.shape) != (self.vocab_size, self.hidden_size):
            raise InputError(f"{type(self).__name__} has no (vocab_size, hidden_size) matrix to tie")
        check_tied(self, weight)
        self.weight = weight

    def label(self) -> str:
        """Name with the settings that matter, for tables and figures."""
        settings = self.extra_repr()
        return f"{type(self).__name__}({settings})" if settings else type(self).__name__


def widened(x: Tensor) -> Tensor:
    """float64 stays, anything narrower becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def normal_(weight: Tensor, fan_in: int) -> nn.Parameter:
    """Normal with variance 2 / (5 fan_in), GPT-NeoX's: logits of a normalised state have std 0.63."""
    return nn.Parameter(nn.init.normal_(weight, std=(2 / (5 * fan_in)) ** 0.5))


def at_least_one(name: str, value: int) -> int:
    """The value itself, or an `InputError` that names the setting."""
    if not isinstance(value, int):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    if value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1")
    return value


def positive(name: str, value: float) -> float:
    """The value itself, or an `InputError` that names the setting."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {value}; it must be positive and finite")
    return value


def not_negative(name: str, value: float) -> float:
    """The value itself, or an `InputError` that names the setting."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name} is {value}; it must be at least 0 and finite")
    return value


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """The value itself, or an `InputError` that names the setting and the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def check_tied(head: Head, weight: Tensor) -> None:
    """Raise unless `weight` is a (V, D) matrix for this head."""
    expected = (head.vocab_size, head.hidden_size)
    if tuple(weight.shape) != expected:
        raise InputError(
            f"cannot tie a {tuple(weight.shape)} embedding to {type(head).__name__}: "
            f"it needs (vocab_size, hidden_size) = {expected}"
        )
