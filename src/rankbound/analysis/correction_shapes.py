"""Kinds and sizes of corrections: what decides how many parameters one has.

Design decisions:
- All kinds have the same readout U (V, E), so those of one size have nearly the same number of parameters.
- Half of the features of a kind with a nonlinearity stay linear, at most as many as the width: it has to
  adapt to the text as the linear correction does, and gelus spent on that are missing where they count.
- Tokens are permuted so that each part of the vocabulary is a contiguous block of columns.

Shapes: V vocabulary, E size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rankbound.errors import InputError

Kind = Literal["linear", "expanded", "partitioned", "mixture"]
PARTS, COMPONENTS = 4, 2


@dataclass(frozen=True)
class Shape:
    """What decides the number of parameters of a correction."""

    kind: Kind
    size: int
    width: int
    vocab_size: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"there is no correction {self.kind!r}; known are {', '.join(get_args(Kind))}")
        if self.size < 1:
            raise InputError(f"a correction's size is {self.size}; it must be at least 1")

    @property
    def parts(self) -> int:
        return min(PARTS, self.vocab_size) if self.kind == "partitioned" else 1

    @property
    def components(self) -> int:
        return COMPONENTS if self.kind == "mixture" else 1

    @property
    def maps(self) -> int:
        return self.parts * self.components

    @property
    def straight(self) -> int:
        """Features that stay linear: all, but half of those of a nonlinear kind, at most the width."""
        return min(self.size // 2, self.width) if self.kind in ("expanded", "partitioned") else self.size

    @property
    def parameter_count(self) -> int:
        gates = self.components * (self.width + 1) if self.components > 1 else 0
        shifts = 0 if self.kind == "linear" else self.maps * self.size
        return self.vocab_size * (self.size + 1) + self.maps * self.size * self.width + shifts + gates


def shape_of(kind: Kind, parameters: int, width: int, vocab_size: int) -> Shape:
    """The largest of a kind with at most so many parameters, of size 1 at least."""

    def count(size: int) -> int:
        return Shape(kind, size, width, vocab_size).parameter_count

    each = count(2) - count(1)
    return Shape(kind, max(1, 1 + (parameters - count(1)) // each), width, vocab_size)


def token_order(vocab_size: int, parts: int = PARTS) -> Tensor:
    """(V,) tokens so that those of one part, v mod `parts`, are next to each other."""
    return torch.cat([torch.arange(part, vocab_size, parts) for part in range(min(parts, vocab_size))])


def token_parts(vocab_size: int, parts: int) -> list[int]:
    """Where each part ends in `token_order`; with one part, the vocabulary's end."""
    ends, end = [], 0
    for part in range(parts):
        end += len(range(part, vocab_size, parts))
        ends.append(end)
    return ends
