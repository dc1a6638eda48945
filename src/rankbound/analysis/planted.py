"""A headroom of known size: the positive control of the probe.

The head is cut to a smaller rank, and the truth, from which labels are drawn, is the cut head and what it
lost, as a nonlinear function of the states:

    truth  z = W_r h + c sum over i > r of t_i s_i(h),     s_i(h) = sqrt(2) sin(a_i' x + u_i),

t_i the lost directions of the vocabulary, x the whitened states, c = 1 unless a size is asked for. The loss
of the cut head against the truth is known, nothing but the cut is in it, and a linear head can win about a
tenth of it back, more where states are narrow.

Design decisions:
- With the lost part as it was, linear in the states, the control says nothing of headroom: a branch that
  finds 95 % of it was measured to find nothing of a real headroom on the same text. A better head is one
  that writes what no linear head can; so is what is planted.
- s_i has mean near 0 and mean square near 1 as the lost coordinate had, so at c = 1 the cut's loss is
  about the same.
- Power grows with what there is to find, so a control speaks for headroom of its own size alone. c sets
  that size: the loss goes about with its square, and is read off the truth on few rows without a search.
- Each lost direction is spread over several waves, on shuffled tokens: on languages of known rank, whose
  headroom is known, the search wins back a larger share of fewer waves than it does of the headroom. So
  they would promise more power than there is.
- Labels are drawn at the states that the probe sees, so that text and its adaptation have no part in it.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from rankbound.analysis.decomposition import Decomposition
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.readout import Readout, capped_, target_nll_

#: Standard deviation of the sine's argument, f: the linear part of a wave is (1 + f^2) exp(-f^2) of it.
FREQUENCY = 2.0
#: Waves a lost direction, and about how many in all: their product costs as much as a head of that width.
SPREAD, WAVES = 8, 512
#: Rows on which a size is set, and how often it is corrected there.
SIZED_ROWS, SIZINGS = 256, 6


class Planted:
    """The truth of the control, over the head cut to `rank`.

    Args:
        found: the head's decomposition.
        rank: r, below the width.
        seed: of a and u, and of the labels.
    """

    def __init__(self, found: Decomposition, rank: int, seed: int = 0) -> None:
        self.readout: Readout = found.readout(rank)
        self._found, self._seed, self._scale = found, seed, 1.0
        generator = torch.Generator().manual_seed(seed)
        lost_VE = found.tokens[:, rank:]
        spread = min(SPREAD, max(1, WAVES // max(1, lost_VE.shape[1])))
        shuffled = [lost_VE[torch.randperm(len(lost_VE), generator=generator)] for _ in range(spread)]
        self._lost_VE = torch.cat(shuffled, 1) / math.sqrt(spread)
        width, lost = found.into.shape[1], self._lost_VE.shape[1]
        direction = torch.randn(width, lost, generator=generator, dtype=torch.float64)
        self._direction_EE = (direction * FREQUENCY / direction.norm(dim=0)).to(found.into)
        phase = torch.rand(lost, generator=generator, dtype=torch.float64) * 2 * math.pi
        self._phase_E = phase.to(found.into)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the truth: (N, D) -> (N, V)."""
        place_NE = self._found.coordinates(hidden)
        waves_NE = math.sqrt(2) * torch.sin(place_NE @ self._direction_EE + self._phase_E)
        raw = self.readout.raw(hidden).addmm_(waves_NE, self._lost_VE.T, alpha=self._scale)
        return capped_(raw, self.readout.soft_cap)

    def loss(self, states: States, rows: Tensor) -> float:
        """Nats a row that the cut head loses against the truth, in expectation."""
        total = 0.0
        for part in torch.split(rows, self.readout.chunk_rows()):
            hidden = states.take(part)
            truth, cut = (head.logits(hidden).log_softmax(1) for head in (self, self.readout))
            total += float((truth.exp() * (truth - cut)).sum())
        return total / len(rows)

    def of_loss(self, nats: float, states: States, rows: Tensor) -> Planted:
        """The same, but for its size: so many nats, more than 0, are lost on rows like these."""
        some = rows[torch.linspace(0, len(rows) - 1, min(SIZED_ROWS, len(rows))).long()]
        sized = copy.copy(self)
        for _ in range(SIZINGS):
            sized._scale *= math.sqrt(nats / max(sized.loss(states, some), 1e-12))
        return sized

    def drawn(self, states: States, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Labels (count,) of some rows, 0 at others; and the truth's own nats of them, likewise."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        target, nats = torch.zeros(count, dtype=torch.long), torch.zeros(count)
        for part in torch.split(rows.sort().values, self.readout.chunk_rows()):
            logits = self.logits(states.take(part))
            heap = logits.softmax(1).cumsum_(1)
            level = torch.rand(len(part), 1, generator=generator, dtype=torch.float64).to(heap)
            found = torch.searchsorted(heap, level * heap[:, -1:])[:, 0]
            target[part] = found.clamp_(max=self.readout.vocab_size - 1)
            nats[part] = target_nll_(logits, target[part]).float()
        return target, nats
