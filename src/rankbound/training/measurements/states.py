"""Where hidden states point, layer by layer."""

from __future__ import annotations

from math import ceil

import torch

from rankbound.errors import InputError
from rankbound.heads.base import at_least_one
from rankbound.metrics import anisotropy, mean_norm
from rankbound.metrics.alignment import readout_alignment
from rankbound.metrics.geometry import centred_anisotropy, isoscore, outlier_dimensions
from rankbound.metrics.neighbours import two_nn_scales
from rankbound.training.measurements.base import Measurement, Reading, Values
from rankbound.training.observed import Observed
from rankbound.training.when import SELDOM, When


class StateGeometry(Measurement):
    """Anisotropy raw and centred, IsoScore, outlier dimensions and norm of every layer's states."""

    def __call__(self, seen: Observed) -> Reading:
        values: Values = {}
        for layer in seen.states:
            rows = seen.rows(layer)
            values |= {
                f"hidden/{layer}/anisotropy": anisotropy(rows),
                f"hidden/{layer}/centred_anisotropy": centred_anisotropy(rows),
                f"hidden/{layer}/isoscore": isoscore(rows),
                f"hidden/{layer}/outlier_dimensions": outlier_dimensions(rows),
                f"hidden/{layer}/norm": mean_norm(rows),
            }
        return Reading(values)


class ReadoutAlignment(Measurement):
    """How much of the last layers' energy lies in the directions that the head reads most.

    Of heads that order tokens as logits linear in the state do; others record nothing.

    Args:
        share: of the width, rounded up, that counts as read most.
        layers: how many of the last layers, the head's input among them.
        when: the steps to measure at; the recorder's if not given.
    """

    def __init__(self, share: float = 0.25, layers: int = 2, when: When | None = None) -> None:
        super().__init__(when)
        if not 0 < share <= 1:
            raise InputError(f"ReadoutAlignment's share is {share}; it must be above 0 and at most 1")
        self.share = share
        self.layers = at_least_one("ReadoutAlignment's layers", layers)

    def __call__(self, seen: Observed) -> Reading:
        linear = seen.linear_map()
        if linear is None:
            return Reading()
        weight_VD, _ = linear
        rank = ceil(self.share * weight_VD.shape[1])
        values: Values = {}
        for layer in list(seen.states)[-self.layers :]:
            if seen.rows(layer).shape[1] != weight_VD.shape[1]:
                continue  # not a layer that the head could read
            found = readout_alignment(seen.rows(layer), weight_VD, rank)
            values |= {f"hidden/{layer}/readout_{name}": value for name, value in found.items()}
        return Reading(values)


class IntrinsicDimension(Measurement):
    """Dimension of the head input's states by their two nearest neighbours, at three sample sizes.

    Args:
        states: rows at most; time grows with their square.
        seed: chooses them.
        when: the steps to measure at; every 1,000, the first and the last if not given.
    """

    default_when = SELDOM

    def __init__(self, states: int = 2048, seed: int = 0, when: When | None = None) -> None:
        super().__init__(when)
        self.states = at_least_one("IntrinsicDimension's states", states)
        self.seed = seed

    def __call__(self, seen: Observed) -> Reading:
        rows_ND = seen.rows("head_input")
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(rows_ND), generator=generator)[: self.states].sort().values
        scales = two_nn_scales(rows_ND[chosen.to(rows_ND.device)], self.seed)
        values = {
            f"hidden/head_input/intrinsic_dimension{part}": found.dimension
            for part, found in zip(("", "_half", "_quarter"), scales, strict=True)
        }
        return Reading(values | {"hidden/head_input/intrinsic_dimension_fit": scales[0].fit})
