"""Learning curves whose truth is known, and how often the saturation test says what about them.

Units are the noise's standard deviation: a curve falls by `FALL` and rises, where it does, by `size` from
the middle of training on. Noise is white or first-order autoregressive; the test takes 0.3 for granted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from rankbound.analysis.noise import autoregressive, late_contrasts, window_length, window_means
from rankbound.analysis.saturation import Scale, saturation

FALL = 10.0
LAST = 143_000
SIZES = (2, 3, 4, 6, 8, 12)
KINDS = ("decaying", "plateau", "noise", *(f"rising {size}" for size in SIZES))
NOISES = (0.0, 0.3, 0.5)
COUNTS = (14, 30)
MARGINS = (1, 2, 3, 4, 6)
UNITS = Scale(unit="noise deviations", material=1.0)


def steps(count: int) -> np.ndarray:
    """Evenly spaced from a tenth of training on; (n,)."""
    return np.linspace(LAST / 11, LAST, count)


def truth(kind: str, at: np.ndarray) -> np.ndarray:
    """The curve without noise, (n,)."""
    if kind == "noise":
        return np.zeros(len(at))
    to_middle = np.minimum(at, LAST / 2) if kind != "decaying" else at
    power = to_middle**-0.5
    falling = FALL * (power - power[-1]) / (power[0] - power[-1])
    size = float(kind.split()[1]) if kind.startswith("rising") else 0.0
    return falling + size * np.maximum(at / LAST - 0.5, 0) / 0.5


@dataclass(frozen=True)
class Told:
    """Of one kind of curve: how often what was said, and how often bounds held."""

    kind: str
    noise: float
    points: int
    curves: int
    verdicts: Counter[str]
    significant: int
    lower_held: int
    upper_held: int
    onset_held: int
    rise: float

    @property
    def late_rises(self) -> int:
        return self.verdicts["late rise"]

    def row(self) -> dict[str, object]:
        return {**vars(self), "late_rises": self.late_rises}


def told(kind: str, correlation: float, points: int, curves: int, seed: int) -> Told:
    """Test `curves` curves of a kind."""
    at = steps(points)
    mean = truth(kind, at)
    length = window_length(points)
    rise, best = late_contrasts(mean).max(), window_means(mean, length).argmin()
    centre = np.exp(window_means(np.log(at), length)[best])
    noise = autoregressive(
        curves, points, correlation, np.random.default_rng([seed, points, KINDS.index(kind)])
    )
    chance = 0.0 if kind == "noise" else FALL
    found = [saturation(at, mean + own, UNITS, chance=chance, start=0) for own in noise]
    return Told(
        kind=kind,
        noise=correlation,
        points=points,
        curves=curves,
        verdicts=Counter(f.verdict for f in found),
        significant=sum(f.late.p < f.assume.alpha for f in found),
        lower_held=sum(f.late.rise.lower <= rise for f in found),
        upper_held=sum(f.late.rise.upper >= rise for f in found),
        onset_held=sum(
            f.late.onset.lower <= centre * 1.0001 and centre <= f.late.onset.upper * 1.0001 for f in found
        ),
        rise=float(rise),
    )


def singles(curves: int, seed: int) -> pd.DataFrame:
    """Every kind, noise and number of points."""
    return pd.DataFrame(
        told(kind, correlation, points, curves, seed).row()
        for points in COUNTS
        for correlation in NOISES
        for kind in KINDS
    )


def of_seeds(curves: int, seed: int) -> pd.DataFrame:
    """Late rises among groups of seeds, each and averaged, at 14 points."""
    rows, at = [], steps(COUNTS[0])
    for seeds in (3, 5):
        for correlation in (0.3, 0.8):
            for kind in ("plateau", "noise", "rising 4", "rising 6"):
                rng = np.random.default_rng([seed, seeds, KINDS.index(kind)])
                noise = autoregressive(curves * seeds, len(at), correlation, rng).reshape(curves, seeds, -1)
                groups = truth(kind, at) + noise
                for how in ("each", "average"):
                    hits = sum(
                        saturation(at, g, UNITS, chance=FALL, start=0, seeds=how).late.p < 0.05
                        for g in groups
                    )
                    rows.append((kind, correlation, seeds, how, hits, curves))
    return pd.DataFrame(rows, columns=["kind", "noise", "seeds", "how", "hits", "curves"])


def equivalences(curves: int, seed: int) -> pd.DataFrame:
    """Plateaus told of curves that are flat from the middle on, and of lines that still gain the margin."""
    rows = []
    for points in COUNTS:
        at = steps(points)
        late = np.log(at[-1] / at[points // 2])
        noise = autoregressive(curves, points, 0.3, np.random.default_rng([seed, points]))
        for margin in MARGINS:
            scale = Scale(unit="noise deviations", material=float(margin))
            line = margin * np.log(at[-1] / at) / late
            for kind, mean in (("flat", truth("plateau", at)), ("line", line)):
                hits = sum(
                    saturation(at, mean + own, scale, chance=100.0, start=0).verdict == "plateau"
                    for own in noise
                )
                rows.append((kind, points, margin, hits, curves))
    return pd.DataFrame(rows, columns=["kind", "points", "margin", "hits", "curves"])


def percent(part: float, digits: int = 0) -> str:
    """`26 %`."""
    return f"{100 * part:.{digits}f} %"


def share(hits: int, of: int) -> str:
    """`4.1 % [2.9, 5.5]`: with the exact 95 % interval of a share."""
    interval = stats.binomtest(int(hits), int(of)).proportion_ci()
    return f"{percent(hits / of, 1)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
