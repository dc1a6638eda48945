"""How many directions the trunk's weights have."""

from __future__ import annotations

import torch

from rankbound.metrics import proportional_effective_rank
from rankbound.metrics.circuits import attention_circuits
from rankbound.metrics.weights import output_value_spectra, weight_ranks
from rankbound.training.measurements.base import Measurement, Reading, Values
from rankbound.training.observed import Observed
from rankbound.training.when import SELDOM


class WeightRanks(Measurement):
    """Proportional effective rank of every weight matrix and of attention's OV product, whole and by head.

    By head its mean, least and greatest are recorded.
    """

    needs_states = False
    default_when = SELDOM

    @torch.no_grad()
    def __call__(self, seen: Observed) -> Reading:
        values: Values = {f"weights/{name}/per": rank for name, rank in weight_ranks(seen.model).items()}
        for name, circuit in attention_circuits(seen.model).items():
            whole, heads = output_value_spectra(*circuit)
            by_head = torch.stack([proportional_effective_rank(spectrum) for spectrum in heads])
            values |= {
                f"circuits/{name}/per": proportional_effective_rank(whole),
                f"circuits/{name}/head_per": by_head.mean(),
                f"circuits/{name}/head_per_least": by_head.min(),
                f"circuits/{name}/head_per_greatest": by_head.max(),
            }
        return Reading(values)
