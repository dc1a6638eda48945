"""The dimension of a corpus: how narrow a linear map can be and still write its next-token distributions.

W-error(d) = sqrt(1 - share of energy in the d leading directions) of the matrix whose rows are the
next-token distributions of all contexts: the relative error of the best approximation of rank d. Energy is
of probabilities, not their logarithms: an indication of the rank that a head needs, not a bound on it.

Counts of a finite corpus inflate it, so four curves stand side by side:

- `empirical`: counted distributions taken for true ones, as published work does; far too high.
- `unbiased`: the spectrum of the unbiased Gram matrix. Its eigenvectors still fit the noise: a little low.
- `crossed`: leading directions of one half of the occurrences, energy from products of both halves. The
  directions do not know the other half: a little high. With `unbiased` it brackets the truth.
- `shuffled`: `empirical` of the corpus with next tokens exchanged between contexts, so that nothing beyond
  token frequencies is left. It answers whether there is structure beyond them. It is no noise level, having
  more noise than the corpus, and is never subtracted.

Intervals resample documents. The directions stay those of the whole corpus, since those of a resampled one
fit more noise; to first order that makes no difference to the captured energy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from rankbound.analysis.gram import Gram, Weighting, crossed, empirical, unbiased
from rankbound.analysis.ngrams import Floats, Integers, NextTokens, next_tokens
from rankbound.analysis.spectral import captured_energy

CURVES = ("empirical", "unbiased", "crossed", "shuffled")
N90, N99 = np.sqrt(0.1), 0.1  # W-error where 90 % and 99 % of the energy is captured
#: Fewer documents than this say little about another sample; blocks of tokens are resampled instead.
FEWEST_DOCUMENTS, BLOCKS = 20, 100


@dataclass(frozen=True)
class Counted:
    """How much a corpus says about an order: shares in [0, 1].

    - `contexts`, `occurrences`: distinct contexts, and n-grams with repetition
    - `singletons`: contexts seen once, which say nothing about rank
    - `tokens_of_singletons`: occurrences that are in them
    - `tokens_well_seen`: occurrences in contexts seen 10 times or more
    """

    contexts: int
    occurrences: int
    singletons: float
    tokens_of_singletons: float
    tokens_well_seen: float


@dataclass(frozen=True)
class Dimension:
    """W-error curves of one order, each (V + 1,) for d = 0 to V, and what they stand on.

    - `curves`: by the names in `CURVES`
    - `resampled`: (resamples, V + 1), `unbiased` on resampled documents
    - `resampled_units`: what was resampled, in words
    """

    order: int
    vocab_size: int
    weighting: Weighting
    counted: Counted
    curves: dict[str, Floats]
    resampled: Floats
    resampled_units: str

    def width(self, curve: str, w_error: float) -> int:
        """The least width at which a curve is at most `w_error`."""
        return width_at(self.curves[curve], w_error)

    def w_error_half_width(self, width: int, level: float = 0.95) -> float:
        """Half the t interval of `unbiased` at a width; NaN without resamples."""
        return _half_width(self.resampled[:, width], level)

    def width_half_width(self, w_error: float, level: float = 0.95) -> float:
        """Half the t interval of the width at which `unbiased` is at most `w_error`."""
        return _half_width(np.array([width_at(curve, w_error) for curve in self.resampled]), level)


def width_at(curve: Floats, w_error: float) -> int:
    """The least d at which a curve, (V + 1,), is at most `w_error`."""
    return int((curve <= w_error).argmax())


def dimension(
    tokens: NDArray[np.integer],
    order: int,
    vocab_size: int,
    *,
    weighting: Weighting = "count",
    halves_by_document: bool = False,
    resamples: int = 20,
    seed: int = 0,
) -> Dimension:
    """Measure one order of a packed token array, (T,), whose documents end with id 0.

    Args:
        tokens: Ids below `vocab_size`.
        order: 2 to 5: the length of the n-gram, one more than its context's.
        vocab_size: V.
        weighting: A context counts as often as it occurs ("count"), or once ("context").
        halves_by_document: Halves for `crossed` hold whole documents. By default each context's occurrences
            are split evenly, which estimates the same as `unbiased`; documents also differ in what follows
            a context, and what does not carry over counts as noise then.
        resamples: Of documents, for the intervals; 0 for none.
        seed: Of halves, shuffling, resampling and probes.

    Raises:
        InputError: An order out of range, or too little text for it.
    """
    return measure(
        next_tokens(tokens, order, vocab_size), order, weighting, halves_by_document, resamples, seed
    )


def measure(
    seen: NextTokens,
    order: int,
    weighting: Weighting = "count",
    halves_by_document: bool = False,
    resamples: int = 20,
    seed: int = 0,
) -> Dimension:
    """Measure counts that are there already; see `dimension`."""
    rng = np.random.default_rng(seed)
    unit, units = _units(seen.document)
    half = seen.split(rng, halves_by_document)
    first, both = crossed(seen, half, weighting)
    counted, pairs = empirical(seen, weighting), unbiased(seen, weighting)
    shuffled = empirical(seen.shuffled(rng), weighting)

    def measured() -> Iterator[Gram]:
        yield pairs
        for _ in range(resamples):
            drawn = rng.multinomial(unit.max() + 1, np.full(unit.max() + 1, 1 / (unit.max() + 1)))
            yield unbiased(seen, weighting, drawn.astype(np.float64)[unit])

    of_pairs = w_error(captured_energy(pairs, measured(), seed))
    curves = {
        "empirical": w_error(captured_energy(counted, [counted], seed)[0]),
        "unbiased": of_pairs[0],
        "crossed": w_error(captured_energy(first, [both], seed)[0]),
        "shuffled": w_error(captured_energy(shuffled, [shuffled], seed)[0]),
    }
    return Dimension(order, seen.counts.shape[1], weighting, _counted(seen), curves, of_pairs[1:], units)


def w_error(captured: Floats) -> Floats:
    """The relative error left by directions that capture a share of the energy."""
    return np.sqrt(np.clip(1 - captured, 0, None))


def _counted(seen: NextTokens) -> Counted:
    often = seen.context_counts
    occurrences = int(often.sum())
    return Counted(
        contexts=len(often),
        occurrences=occurrences,
        singletons=float((often == 1).mean()),
        tokens_of_singletons=float((often == 1).sum() / occurrences),
        tokens_well_seen=float(often[often >= 10].sum() / occurrences),
    )


def _units(document: Integers) -> tuple[Integers, str]:
    """What the bootstrap draws: the unit of each occurrence, (N,), and its name."""
    found, unit = np.unique(document, return_inverse=True)
    if len(found) >= FEWEST_DOCUMENTS:
        return unit, f"{len(found):,} documents"
    return np.arange(len(document)) * BLOCKS // len(document), f"{BLOCKS} blocks of consecutive tokens"


def _half_width(values: NDArray[np.number], level: float) -> float:
    if len(values) < 2:
        return float("nan")
    quantile: float = stats.t.ppf((1 + level) / 2, len(values) - 1)
    return quantile * float(values.std(ddof=1))
