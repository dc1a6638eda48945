"""Which tokens are read together: windows of texts in rows, and rows in batches.

Design decisions:
- Texts that begin alike (the sentences of a minimal pair, the answers to one question, all texts that open
  with the same words) share a row in which the common beginning stands once, as a tree of tokens
  (`rankbound.model.tree`). Sorted by their tokens, each text shares the most with the one before it.
- A row that grows saves tokens and makes attention look at more pairs. It may hold ROW_TOKENS, where pairs
  cost next to nothing, or as many times the shared beginning as SHARES says.
- Rows of like length share a batch, padded on the right: nothing that is scored ever sees the padding.

Shapes: B rows of a batch, T tokens of a row, N scored positions of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.model.tree import TokenTree

ROW_TOKENS = 96
SHARES = 4
PORTION = 2**20


class Window(NamedTuple):
    """Inputs `start` to `end` of a piece, those from `fresh` on scored; input i predicts token i + 1."""

    piece: int
    start: int
    fresh: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass
class Row:
    """Windows read at once, as a tree of tokens (`rankbound.model.tree`).

    - `tokens`, `positions`, `ends`: the tree
    - `path`: the nodes of the last window
    - `states`, `targets`: of every scored input of every window its node, and the token after it
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)

    def add(self, window: Window, ids: Sequence[int], shared: int) -> None:
        """A window whose first `shared` inputs are those of the one before it; `ids` are one more."""
        end, first = self.length + window.length - shared, window.fresh - window.start
        self.path[shared:] = range(self.length, end)
        self.tokens += ids[shared:-1]
        self.positions += range(shared, window.length)
        self.ends += [end] * (end - len(self.ends))
        for node in self.path[:shared]:
            self.ends[node] = end
        self.windows.append(window)
        self.states += self.path[first:]
        self.targets += ids[first + 1 :]


class Targets(NamedTuple):
    """What a batch scores.

    - `state`, `token` (N,) int64: pairs of one of the B x T states and a token after it, each once
    - `of_windows` (M,) int64: the pair of every scored token of every window, one window after another
    """

    state: Tensor
    token: Tensor
    of_windows: NDArray[np.int64]


def batches(
    windows: Iterable[Window], pieces: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[list[Row]]:
    """Rows of all windows of `pieces`, as many at once as stay within `batch_tokens` when padded."""
    for portion in _portions(windows):
        yield from grouped(packed(portion, pieces, batch_tokens), batch_tokens)


def packed(windows: Iterable[Window], pieces: Sequence[Sequence[int]], most: int) -> list[Row]:
    """Windows of `pieces` in rows of at most `most` tokens, unless a window alone is longer."""

    def ids_of(window: Window) -> tuple[int, ...]:  # no list: the garbage collector would follow it
        return tuple(pieces[window.piece][window.start : window.end + 1])

    rows: list[Row] = []
    before: tuple[int, ...] = ()
    for ids, window in sorted((ids_of(window), window) for window in windows):
        shared = min(_common(before, ids), window.length, max(len(before) - 1, 0))
        room = min(most, max(ROW_TOKENS, SHARES * shared))
        if not shared or rows[-1].length + window.length - shared > room:
            rows.append(Row())
            shared = 0
        rows[-1].add(window, ids, shared)
        before = ids
    return rows


def grouped(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows by length, longest first."""
    ordered = sorted(rows, key=lambda row: -row.length)
    batch: list[Row] = []
    for row in ordered:
        if batch and (len(batch) + 1) * batch[0].length > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def together(batch: Sequence[Row]) -> TokenTree | Tensor:
    """What the body reads: tokens (B, T) alone where no row holds two windows."""
    if all(len(row.windows) == 1 for row in batch):
        return _padded([row.tokens for row in batch])
    return TokenTree(
        _padded([row.tokens for row in batch]),
        _padded([row.positions for row in batch]),
        _padded([row.ends for row in batch], fill=batch[0].length),  # padding sees itself
    )


def targets(batch: Sequence[Row]) -> Targets:
    """The pairs that a batch scores, its rows padded to the first's length."""
    states, tokens = (_joined([getattr(row, name) for row in batch]) for name in ("states", "targets"))
    states += np.repeat(np.arange(len(batch)) * batch[0].length, [len(row.states) for row in batch])
    size = tokens.max() + 1
    pairs, of_windows = np.unique(states * size + tokens, return_inverse=True)
    return Targets(torch.from_numpy(pairs // size), torch.from_numpy(pairs % size), of_windows)


def _portions(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows in turn, a million of their tokens at a time, which bounds what rows hold in memory."""
    portion, tokens = [], 0
    for window in windows:
        portion.append(window)
        tokens += window.length
        if tokens >= PORTION:
            yield portion
            portion, tokens = [], 0
    if portion:
        yield portion


def _joined(lists: list[list[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), np.int64, sum(map(len, lists)))


def _padded(lists: list[list[int]], fill: int = 0) -> Tensor:
    """(B, T), the first being the longest."""
    table = np.full((len(lists), len(lists[0])), fill)
    table[np.arange(len(lists[0])) < np.array([[len(own)] for own in lists])] = _joined(lists)
    return torch.from_numpy(table)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for number, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return number
    return min(len(first), len(second))
