"""A head on frozen states as its corrections see it: chunks of whitened states with the head's logits.

Design decisions:
- The head's product is made for a block of rows, large enough that its matrix is not read anew for few of
  them; corrections work on a chunk of the block, small enough that its logits stay in the caches from one
  pass over them to the next.
- States are whitened, so that one set of rates and penalties fits every model.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rankbound.analysis.correction_shapes import Kind, shape_of, token_order
from rankbound.analysis.corrections import Chunk, Correction
from rankbound.analysis.decomposition import Moments
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.readout import LOGITS, Readout

#: Directions with less than this share of the mean energy are not blown up by whitening.
RIDGE = 1e-3
#: Logits of a chunk.
NEAR = 3 << 19


class Problem:
    """A head, states and targets, as corrections see them.

    Args:
        states: of N rows.
        readout: the head that is corrected.
        target: (N,) int64.
        seen: mean and second moment of the states, for whitening.
    """

    def __init__(self, states: States, readout: Readout, target: Tensor, seen: Moments) -> None:
        order = token_order(readout.vocab_size)
        self._place_V = torch.empty_like(order)
        self._place_V[order] = torch.arange(len(order))
        self.states, self.target = states, target
        self.vocab_size, self.width, self.soft_cap = readout.vocab_size, readout.width, readout.soft_cap
        self._weight_DV = readout.weight[order].T
        self._bias_V = readout.weight.new_zeros(len(order)) if readout.bias is None else readout.bias[order]
        energy, axes = torch.linalg.eigh(seen.covariance)
        ridge = RIDGE * energy.clamp(min=0).mean() + 1e-30
        whiten = (axes / (energy.clamp(min=0) + ridge).sqrt()) @ axes.T
        self._whiten_DD = whiten.to(readout.weight)
        self._mean_D = seen.mean.to(readout.weight)
        self.block_rows = max(8, LOGITS // self.vocab_size)
        self.chunk_rows = max(8, NEAR // self.vocab_size)
        self._base = readout.weight.new_empty(self.block_rows * self.vocab_size)
        room = self.chunk_rows * self.vocab_size * (4 if self.soft_cap else 2)
        self.workspace = readout.weight.new_empty(room)

    def correction(self, kind: Kind, parameters: int, seed: int) -> Correction:
        """One that starts at the head, with at most so many parameters."""
        shape = shape_of(kind, parameters, self.width, self.vocab_size)
        return Correction(shape, self.soft_cap, seed, like=self._base)

    def chunks(self, rows: Tensor) -> Iterator[Chunk]:
        """Rows with the head's logits, a chunk at a time; later ones overwrite them."""
        for block in torch.split(rows, self.block_rows):
            hidden = self.states.take(block).to(self._weight_DV)
            base = self._base[: len(block) * self.vocab_size].view(len(block), -1)
            torch.addmm(self._bias_V, hidden, self._weight_DV, out=base)
            states = (hidden - self._mean_D) @ self._whiten_DD
            target = self._place_V[self.target[block]]
            for start in range(0, len(block), self.chunk_rows):
                part = slice(start, start + self.chunk_rows)
                yield self._chunk(states[part], base[part], target[part])

    def _chunk(self, states: Tensor, base: Tensor, target: Tensor) -> Chunk:
        top = base.amax(1, keepdim=True)
        if self.soft_cap is not None:
            top = self.soft_cap * (top / self.soft_cap).tanh()
        return Chunk(states, base, top, target)

    def losses(self, found: Sequence[tuple[Correction, Tensor | None]], rows: Tensor) -> Tensor:
        """Nats of each row, (len(found), n), of corrections at given parameters (None: as they are)."""
        nats = self._base.new_empty(len(found), len(rows))
        start = 0
        for chunk in self.chunks(rows):
            stop = start + len(chunk.target)
            for i, (correction, values) in enumerate(found):
                nats[i, start:stop] = correction.nll(chunk, self.workspace, values)
            start = stop
        return nats
