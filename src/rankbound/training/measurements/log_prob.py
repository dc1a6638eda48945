"""The log-probability matrix, which is what the bottleneck's theory speaks of."""

from __future__ import annotations

import torch
from torch import Tensor

from rankbound.metrics.log_prob import linear_log_prob_spectrum, log_prob_spectrum, log_prob_summary
from rankbound.training.measurements.base import Measurement, Reading, Values
from rankbound.training.observed import Observed
from rankbound.training.when import SELDOM, When


class LogProbSpectrum(Measurement):
    """Spectrum of log P on distinct contexts of the probe set, raw and double-centred, in float64.

    A head whose logits are linear in features is measured from matrices of the features' size, any other
    by its rows. Energy is counted beyond the rank that a linear head of this width is bound to.

    Args:
        contexts: rows of the matrix; what lies beyond so many ranks is not seen.
        seed: chooses the contexts.
        when: the steps to measure at; every 1,000, the first and the last if not given.
    """

    default_when = SELDOM

    def __init__(self, contexts: int = 512, seed: int = 0, when: When | None = None) -> None:
        super().__init__(when)
        self.contexts, self.seed = contexts, seed

    @torch.no_grad()
    def __call__(self, seen: Observed) -> Reading:
        hidden_ND = seen.head_input[seen.contexts(self.contexts, self.seed).to(seen.head_input.device)]
        factors = seen.factors(hidden_ND)
        rows_NV = seen.log_prob(hidden_ND) if factors is None else None
        width = hidden_ND.shape[1]
        values: Values = {}
        spectra: dict[str, Tensor] = {}
        for name, centred in (("raw", False), ("centred", True)):
            if rows_NV is None:
                assert factors is not None
                spectrum = linear_log_prob_spectrum(*factors, centred=centred)
            else:
                spectrum = log_prob_spectrum(rows_NV, centred=centred)
            summary = log_prob_summary(spectrum, width if centred else width + 1)
            values |= {f"log_prob/{name}/{key}": value for key, value in summary.items()}
            spectra[f"log_prob/{name}"] = spectrum
        return Reading(values, spectra)
