"""Tokens that a linear head can never predict: no state gives them the highest score.

Demeter et al. 2020, Grivas et al. 2022: without a bias, a token can win iff its row is a vertex of the
convex hull of all rows. Design decisions:
- Winning is strict, so of tokens that share a row (and bias) none ever wins: they count as unargmaxable,
  each with one of its twins as the proof.
- Cheap certificates come first: the states at hand, then the directions w_y, w_y - mean and
  (C'C)^-1 c_y, C the row-centred head: at most three products of 2 V V D operations, in the weight's
  dtype but at least float32; what is closer than its rounding error is settled in float64. Then a
  perceptron, and linear programs for what is left (`rankbound.metrics.argmax_program`).
- States behind a norm are h = gain n + shift with |n| = sqrt(D), n of mean zero behind a LayerNorm; its
  epsilon is taken as 0. Without bias and shift their length does not matter. With one, a token that
  loses over all n loses on the sphere too, but one that wins needs a state on the sphere: where it has
  only others it is `off_sphere`.

Shapes: weight (V, D), bias (V,), gain and shift (D,), states (N, D); any float dtype, any device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rankbound.metrics.argmax_head import LinearHead, check_head
from rankbound.metrics.argmax_program import Combination
from rankbound.metrics.argmax_search import LOSING, OFF_SPHERE, WINNING, Search


@dataclass(frozen=True)
class ArgmaxReport:
    """Every token in exactly one of four sorted int64 tensors, on the CPU.

    Attributes:
        argmaxable: tokens that some allowed state makes the strict argmax.
        unargmaxable: tokens that no state does; `combinations` has the proof of each.
        off_sphere: tokens that win only with lengths that the norm does not give, `combinations` proves it.
        undecided: tokens left when the time was up, too close for float64, or of which no state on the
            sphere was found though none is excluded.
        settled: tokens by the certificate that settled them. Winning: `states` (given ones), `row`,
            `centred`, `leverage`, `perceptron`, `program`. Losing: `repeated`, `dual`. Off the sphere:
            `ball` (only longer states win), `simplex` (only shorter ones).
        winning_states: token -> (D,) float64 input of the head at which it wins, of `perceptron` and
            `program`.
        combinations: token -> convex combination of other tokens whose rows, as the norm's gain and mean
            leave them, average to the token's own and whose biases (shift included) average to no less;
            for `ball`, sqrt(D) |own row - average| + own bias <= average bias; for `simplex`, the rows
            average to the token's own, and the states at which it beats them are a simplex with all
            corners within the sphere.
        seconds: wall time.
    """

    argmaxable: Tensor
    unargmaxable: Tensor
    off_sphere: Tensor
    undecided: Tensor
    settled: dict[str, Tensor]
    winning_states: dict[int, Tensor]
    combinations: dict[int, Combination]
    seconds: float

    def counts(self) -> dict[str, float]:
        """Number of tokens of each kind and by each certificate, and the seconds."""
        kinds = {
            name: float(len(getattr(self, name)))
            for name in ("argmaxable", "unargmaxable", "off_sphere", "undecided")
        }
        by = {f"settled_by_{name}": float(len(tokens)) for name, tokens in self.settled.items()}
        return {**kinds, **by, "seconds": self.seconds}


def find_unargmaxable(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Literal["free", "layernorm", "rmsnorm"] = "free",
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    seconds: float = 60.0,
    states: Tensor | None = None,
) -> ArgmaxReport:
    """Which tokens a head with logits W h + b can never predict (Demeter et al. 2020, Grivas et al. 2022).

    Args:
        weight: (V, D) of the head, V >= 2.
        bias: (V,) or None.
        norm: `free` for any state in R^D, else the norm whose output is the head's input.
        gain: (D,) the norm's elementwise factor, None for one.
        shift: (D,) the norm's elementwise addend, None for zero.
        seconds: time for what the fixed passes leave over; at 0 all of that is undecided. A program in
            progress is stopped when the time is up.
        states: (N, D) inputs of the head, as it was fed them; their argmaxes need no further proof.

    Raises:
        InputError: wrong shape, fewer than two tokens, values not finite, gain or shift of no norm.

    >>> corners = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.1]])
    >>> find_unargmaxable(corners).unargmaxable
    tensor([3])
    """
    begun = time.monotonic()
    check_head(weight, bias, norm, gain, shift, states)
    with torch.no_grad(), _full_float32():
        head = LinearHead(weight, bias, norm, gain, shift)
        search = Search(head, torch.promote_types(weight.dtype, torch.float32))
        search.by_repetition()
        if states is not None:
            search.by_states(states)
        search.by_directions()
        search.by_bias()
        now = time.monotonic()
        search.by_perceptron(now + seconds / 2)
        search.by_program(now + seconds)
    settled = {name: torch.tensor(sorted(tokens)).long() for name, tokens in search.settled.items()}
    argmaxable, unargmaxable, off_sphere = (
        torch.cat([settled[name] for name in names]).sort().values
        for names in (WINNING, LOSING, OFF_SPHERE)
    )
    return ArgmaxReport(
        argmaxable,
        unargmaxable,
        off_sphere,
        search.left().cpu(),
        settled,
        search.winning_states,
        search.combinations,
        time.monotonic() - begun,
    )


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 products: the bounds on rounding hold for full float32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
