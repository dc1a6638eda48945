"""The log-probability matrix, which is what the bottleneck's theory speaks of."""

from __future__ import annotations

import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.heads.base import at_least_one
from rankbound.metrics.log_prob import linear_log_prob_spectrum, log_prob_spectrum, log_prob_summary
from rankbound.training.measurements.base import Measurement, Reading, Values
from rankbound.training.observed import Observed
from rankbound.training.when import SELDOM, When


class LogProbSpectrum(Measurement):
    """Spectrum of log P on distinct contexts of the probe set, raw and double-centred, in float64.

    A head whose logits are linear in features is measured from matrices of the features' size, any other
    by its rows. Energy is counted beyond the rank that a linear head of this width is bound to.

    Args:
        contexts: rows of the matrix; 512, or twice the width and four if that is more, if not given. What
            lies beyond so many ranks is not seen.
        seed: chooses the contexts.
        when: the steps to measure at; every 1,000, the first and the last if not given.
    """

    default_when = SELDOM

    def __init__(self, contexts: int | None = None, seed: int = 0, when: When | None = None) -> None:
        super().__init__(when)
        self.contexts = None if contexts is None else at_least_one("LogProbSpectrum's contexts", contexts)
        self.seed = seed

    @torch.no_grad()
    def __call__(self, seen: Observed) -> Reading:
        width = seen.head_input.shape[1]
        contexts = self.contexts or max(512, 2 * width + 4)
        chosen = seen.contexts(contexts, self.seed).to(seen.head_input.device)
        if len(chosen) < width + 2:
            raise InputError(
                f"{len(chosen)} contexts cannot show a rank beyond width {width} + 1; "
                "raise LogProbSpectrum's contexts, or the probe set's size where it has no more"
            )
        hidden_ND = seen.head_input[chosen]
        factors = seen.factors(hidden_ND)
        rows_NV = seen.log_prob(hidden_ND) if factors is None else None
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
