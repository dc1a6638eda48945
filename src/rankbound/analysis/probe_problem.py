"""A head on frozen states as its corrections see it: chunks of whitened states with the head's logits.

Design decisions:
- A chunk is as long as memory allows within reason: shorter ones keep logits nearer, but read the head's
  matrix and pay for every small operation once for few rows (`python bench/head_probe.py --step`).
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
from rankbound.analysis.readout import Readout

#: Directions with less than this share of the mean energy are not blown up by whitening.
RIDGE = 1e-3
#: Logits of a chunk; memory holds three or, under a soft cap, five times as many.
LOGITS = 1 << 23


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
        self.chunk_rows = max(8, LOGITS // self.vocab_size)
        self._base = readout.weight.new_empty(self.chunk_rows * self.vocab_size)
        room = self.chunk_rows * self.vocab_size * (4 if self.soft_cap else 2)
        self.workspace = readout.weight.new_empty(room)

    def correction(self, kind: Kind, parameters: int, seed: int) -> Correction:
        """One that starts at the head, with at most so many parameters."""
        shape = shape_of(kind, parameters, self.width, self.vocab_size)
        return Correction(shape, self.soft_cap, seed, like=self._base)

    def chunks(self, rows: Tensor) -> Iterator[Chunk]:
        """Rows with the head's logits, a chunk at a time; later ones overwrite them."""
        for part in torch.split(rows, self.chunk_rows):
            hidden = self.states.take(part).to(self._weight_DV)
            base = self._base[: len(part) * self.vocab_size].view(len(part), -1)
            torch.addmm(self._bias_V, hidden, self._weight_DV, out=base)
            states = (hidden - self._mean_D) @ self._whiten_DD
            yield self._chunk(states, base, self._place_V[self.target[part]])

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
