"""What a head's matrices and its gates say."""

from __future__ import annotations

from rankbound.metrics import singular_values, spectrum_summary
from rankbound.training.measurements.base import Measurement, Reading
from rankbound.training.observed import Observed


class HeadSpectrum(Measurement):
    """Singular values of each of the head's matrices, and what follows from them."""

    needs_states = False

    def __call__(self, seen: Observed) -> Reading:
        spectra = {name: singular_values(matrix) for name, matrix in seen.matrices().items()}
        values = {
            f"head/{matrix}/{name}": value
            for matrix, spectrum in spectra.items()
            for name, value in spectrum_summary(spectrum).items()
        }
        return Reading(values, spectra)


class HeadUsage(Measurement):
    """What the head says of itself on the probe's states, such as how evenly its components are used."""

    def __call__(self, seen: Observed) -> Reading:
        return Reading({f"head/{name}": value for name, value in seen.statistics().items()})
