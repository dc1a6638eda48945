"""Small additions to a head that start at nothing: what may win back what the head loses.

    z = z_0 + d + U f(x),   U = 0 and d = 0 at the start,

z_0 the head's own logits, x the states whitened, d a free bias. The kinds differ in f and nothing else:

- `linear`: f = A x. What any linear head could do as well: the baseline, not headroom.
- `expanded`: half of f is A x, half gelu(A' x + c), features read by all tokens.
- `partitioned`: f_i likewise, with maps of its own; token v reads from i = v mod 4.
- `mixture`: two softmaxes, f_k = A_k x + c_k, mixed by softmax(M x).

Design decisions:
- All share one z_0: that product, most of the cost, is made once for any number of corrections.
- The gradient is written by hand, and is exact. With e = exp(z - m) for any m near the largest logit, and
  the inputs of the readout widened to [f, 1, -m] on [U, d, 1], three products and one pass of exp are all
  that touches a chunk's N x V: forward e, then e [U, d, 1], which holds the sum of e beside what goes back
  to f, then e' [f, 1] over that sum. The target's column is a gather of N rows.
- Parameters are one flat vector: an optimiser, a penalty and a snapshot are each one operation.

Shapes: N rows, D hidden size, V vocabulary, E size, J feature maps (parts or components), K components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.analysis.correction_shapes import Shape, token_parts

#: Standard deviation of what enters a gelu at the start: at 1, features are less curved and learn slowly.
GAIN = 2.0


@dataclass(frozen=True)
class Chunk:
    """Rows of the problem, tokens in `token_order`: states (n, D) whitened, targets (n,).

    `base` is (n, V) logits of the head, or (V,) where they are the same for all rows; `shift` (n, 1) is
    about their largest.
    """

    states: Tensor
    base: Tensor
    shift: Tensor
    target: Tensor

    def first(self, rows: int) -> Chunk:
        base = self.base if self.base.ndim == 1 else self.base[:rows]
        return Chunk(self.states[:rows], base, self.shift[:rows], self.target[:rows])


class Correction:
    """One correction and its gradient; parameters are views of the flat vector `values`.

    Args:
        shape: its kind and size.
        soft_cap: of the head, which also caps the corrected logits.
        seed: of A and M.
        like: gives dtype and device.
    """

    def __init__(self, shape: Shape, soft_cap: float | None = None, seed: int = 0, *, like: Tensor) -> None:
        self.shape, self.soft_cap = shape, soft_cap
        maps, size, width, tokens = shape.maps, shape.size, shape.width, shape.vocab_size
        self._sizes = [
            tokens * (size + 2),
            maps * size * width,
            0 if shape.kind == "linear" else maps * size,
            shape.components * (width + 1) if shape.components > 1 else 0,
        ]
        generator = torch.Generator().manual_seed(seed)
        self.values = torch.zeros(sum(self._sizes), dtype=like.dtype)
        readout, maps_JED, shift, gates = self._views(self.values)
        readout[:, -1] = 1  # carries the row's shift, and never learns
        gain = GAIN if shape.kind in ("expanded", "partitioned") else 1
        maps_JED.copy_(torch.randn(maps_JED.shape, generator=generator) * gain / math.sqrt(width))
        if shape.kind in ("expanded", "partitioned"):
            shift.copy_(torch.randn(shift.shape, generator=generator))
            maps_JED[:, : shape.straight] /= gain
            shift[:, : shape.straight] = 0
        if shape.components > 1:
            gates[:, :-1] = torch.randn((shape.components, width), generator=generator) / math.sqrt(width)
        self.values = self.values.to(like.device)
        self.start = self.values.clone()
        self.gradient = torch.zeros_like(self.values)
        ends = token_parts(tokens, shape.parts)
        self._columns = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        part_V = torch.repeat_interleave(torch.tensor([c.stop - c.start for c in self._columns]))
        self._part_V = part_V.to(like.device)

    def _views(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[U, d, 1] (V, E + 2), A (J, E, D), c (J, E) or empty, M (K, D + 1) or empty."""
        readout, maps, shift, gates = torch.split(flat, self._sizes)
        shape = self.shape
        return (
            readout.view(shape.vocab_size, shape.size + 2),
            maps.view(shape.maps, shape.size, shape.width),
            shift.view(-1, shape.size),
            gates.view(-1, shape.width + 1),
        )

    def features(self, states: Tensor, flat: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """f before and after its nonlinearity, (n, J, E) each, and log of the mixing weights (n, K)."""
        _, maps_JED, shift_JE, gates = self._views(self.values if flat is None else flat)
        before = states @ maps_JED.flatten(0, 1).T
        if len(shift_JE):
            before += shift_JE.flatten()
        before = before.view(len(states), self.shape.maps, self.shape.size)
        after = before
        if self.shape.straight < self.shape.size:
            after = before.clone()
            after[..., self.shape.straight :] = torch.nn.functional.gelu(before[..., self.shape.straight :])
        if not len(gates):
            return before, after, None
        return before, after, (states @ gates[:, :-1].T + gates[:, -1]).log_softmax(1)

    def nll(self, chunk: Chunk, workspace: Tensor, flat: Tensor | None = None) -> Tensor:
        """Nats of each row, (n,); `flat` are other parameters than the present ones."""
        readout = self._views(self.values if flat is None else flat)[0]
        _, features, log_mixing = self.features(chunk.states, flat)
        inputs = self._inputs(features, chunk)
        total_nK = torch.zeros(len(chunk.target), self.shape.components).to(features)
        for component, part, columns in self._blocks():
            exp = self._exponentials(inputs[:, component + part], readout, chunk, columns, workspace)[0]
            total_nK[:, component] += exp.sum(1)
        at_target_nK = self._at_target(inputs, readout, chunk)[0] - total_nK.log()
        return -_mixed(at_target_nK, log_mixing)

    def add_gradient(self, chunk: Chunk, scale: float, workspace: Tensor) -> Tensor:
        """Nats of each row, (n,); adds `scale` times the gradient of their sum to `gradient`.

        Args:
            chunk: the rows.
            scale: one over the rows of a batch, for its mean.
            workspace: room for K n V numbers, twice as many under a soft cap.
        """
        size, components = self.shape.size, self.shape.components
        readout = self._views(self.values)[0]
        before, features, log_mixing = self.features(chunk.states)
        inputs = self._inputs(features, chunk)
        rows = len(chunk.target)
        total_nK = features.new_zeros(rows, components)
        back = torch.empty_like(inputs)
        kept: list[Tensor] = []
        room = workspace
        for component, part, columns in self._blocks():
            j = component + part
            exp, room = self._exponentials(inputs[:, j], readout, chunk, columns, room)
            if self.soft_cap is None:
                torch.mm(exp, readout[columns], out=back[:, j])
                total_nK[:, component] += back[:, j, -1]
            else:  # the sum is of exp, what goes back is of exp times the slope of the cap
                total_nK[:, component] += exp.sum(1)
                exp *= self._slope(room, exp.shape)
                room = room[exp.numel() :]
                torch.mm(exp, readout[columns], out=back[:, j])
            kept.append(exp)
        at_target_nK, slope_nK = self._at_target(inputs, readout, chunk)
        log_prob_nK = at_target_nK - total_nK.log()
        log_prob = _mixed(log_prob_nK, log_mixing)
        share_nK = torch.ones_like(log_prob_nK)
        if log_mixing is not None:
            share_nK = (log_prob_nK + log_mixing - log_prob[:, None]).exp()
        weight_nK, hit_nK = share_nK * scale / total_nK, share_nK * scale * slope_nK
        d_readout, d_maps, d_shift, d_gates = self._views(self.gradient)
        for (component, part, columns), exp in zip(self._blocks(), kept, strict=True):
            j = component + part
            scaled = inputs[:, j] * weight_nK[:, component, None]
            scaled[:, -1] = 0
            d_readout[columns].addmm_(exp.T, scaled)
            back[:, j] *= weight_nK[:, component, None]
        d_features = back[..., :size]
        self._subtract_target(d_features, d_readout, inputs, readout, chunk, hit_nK)
        if self.shape.straight < size:
            d_features[..., self.shape.straight :] *= _gelu_slope(before[..., self.shape.straight :])
        flat_d = d_features.flatten(1)
        d_maps.flatten(0, 1).addmm_(flat_d.T, chunk.states)
        if len(d_shift):
            d_shift += d_features.sum(0)
        if log_mixing is not None:
            d_scores = (log_mixing.exp() - share_nK) * scale
            d_gates[:, :-1].addmm_(d_scores.T, chunk.states)
            d_gates[:, -1] += d_scores.sum(0)
        return -log_prob

    def _blocks(self) -> list[tuple[int, int, slice]]:
        if self.shape.components > 1:
            return [(k, 0, slice(0, self.shape.vocab_size)) for k in range(self.shape.components)]
        return [(0, part, columns) for part, columns in enumerate(self._columns)]

    def _inputs(self, features: Tensor, chunk: Chunk) -> Tensor:
        """[f, 1, -m], (n, J, E + 2); under a soft cap the shift comes after it."""
        rows, maps, size = features.shape
        inputs = features.new_empty(rows, maps, size + 2)
        inputs[..., :size] = features
        inputs[..., size] = 1
        inputs[..., size + 1] = -chunk.shift if self.soft_cap is None else 0
        return inputs

    def _exponentials(
        self, inputs: Tensor, readout: Tensor, chunk: Chunk, columns: slice, room: Tensor
    ) -> tuple[Tensor, Tensor]:
        """exp(z - m) of some columns, written to the start of `room`; and the rest of `room`."""
        width = columns.stop - columns.start
        exp = room[: len(inputs) * width].view(len(inputs), width)
        torch.addmm(chunk.base[..., columns], inputs, readout[columns].T, out=exp)
        rest = room[exp.numel() :]
        if self.soft_cap is not None:
            tanh = exp.div_(self.soft_cap).tanh_()
            rest[: exp.numel()].view_as(exp).copy_(tanh)  # of which the slope is made
            exp.mul_(self.soft_cap).sub_(chunk.shift)
        return exp.exp_(), rest

    @staticmethod
    def _slope(room: Tensor, shape: torch.Size) -> Tensor:
        """1 - tanh^2 from the tanh left there."""
        tanh = room[: shape.numel()].view(shape)
        return tanh.square_().neg_().add_(1)

    def _at_target(self, inputs: Tensor, readout: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """z - m at the target, and the slope of the cap there, (n, K) each."""
        target = chunk.target
        base = chunk.base[target] if chunk.base.ndim == 1 else chunk.base.gather(1, target[:, None])[:, 0]
        read_nKE = inputs
        if self.shape.parts > 1:
            read_nKE = inputs.take_along_dim(self._part_V[target][:, None, None], 1)
        logit_nK = (read_nKE * readout[target][:, None]).sum(2) + base[:, None]
        if self.soft_cap is None:
            return logit_nK, torch.ones_like(logit_nK)
        tanh = (logit_nK / self.soft_cap).tanh()
        return self.soft_cap * tanh - chunk.shift, 1 - tanh.square()

    def _subtract_target(
        self,
        d_features: Tensor,
        d_readout: Tensor,
        inputs: Tensor,
        readout: Tensor,
        chunk: Chunk,
        hit_nK: Tensor,
    ) -> None:
        """The target's own term: -hit on its logit."""
        size, target = self.shape.size, chunk.target
        back_nKE = hit_nK[:, :, None] * readout[target, None, :size]
        if self.shape.parts > 1:
            part = self._part_V[target][:, None, None]
            d_features.scatter_add_(1, part.expand_as(back_nKE), -back_nKE)
            at_target = inputs.take_along_dim(part, 1)[:, 0] * hit_nK
        else:
            d_features -= back_nKE
            at_target = (inputs * hit_nK[:, :, None]).sum(1)
        at_target[:, -1] = 0
        d_readout.index_add_(0, target, at_target, alpha=-1)


def _mixed(log_prob_nK: Tensor, log_mixing: Tensor | None) -> Tensor:
    return log_prob_nK[:, 0] if log_mixing is None else (log_prob_nK + log_mixing).logsumexp(1)


def _gelu_slope(x: Tensor) -> Tensor:
    density = (-0.5 * x.square()).exp() / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density
