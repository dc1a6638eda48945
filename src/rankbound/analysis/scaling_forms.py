"""The forms of a scaling law: a floor and terms that fall, each with one coefficient and one rate.

    L = E + sum_k c_k * exp(-rate_k * feature_k(x)),    c_k, E >= 0

With feature = log x a term is the power law c / x^rate, with feature = x an exponential. Every form is of
this shape, so log L is a log-sum-exp of functions linear in (log c, rate), and one minimiser with one exact
Jacobian serves all. A new form is a class of its own with the terms it has; a new kind of term says its
feature. Letters are the literature's: N parameters (or any other measure of size), T tokens, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One falling term of a law: names of its coefficient, its rate and the variable that it falls with.

    `rates`: the range in which the rate is sought, in units of 1 / `unit`.
    """

    coefficient: str
    rate: str
    variable: str
    rates: ClassVar[tuple[float, float]]

    def feature(self, x: Floats) -> Floats:
        """What the rate multiplies: (N,) to (N,)."""
        raise NotImplementedError

    def unit(self, x: Floats) -> float:
        """The size of a feature that counts as one, so that rates are near one for any data."""
        raise NotImplementedError

    def text(self, coefficient: str, rate: str) -> str:
        """The term as a reader writes it."""
        raise NotImplementedError


class Power(Term):
    """coefficient / x^rate."""

    rates = (0.01, 4.0)

    def feature(self, x: Floats) -> Floats:
        return np.log(x)

    def unit(self, x: Floats) -> float:
        return 1.0

    def text(self, coefficient: str, rate: str) -> str:
        return f"{coefficient} / {self.variable}^{rate}"


class Exponential(Term):
    """coefficient * exp(-rate * x)."""

    rates = (0.02, 50.0)

    def feature(self, x: Floats) -> Floats:
        return x

    def unit(self, x: Floats) -> float:
        return float(x.mean())

    def text(self, coefficient: str, rate: str) -> str:
        return f"{coefficient} exp(-{rate} {self.variable})"


class Form:
    """A law's shape: what its terms are, and whether loss has a floor E."""

    terms: ClassVar[tuple[Term, ...]]
    floor: ClassVar[bool] = True

    @property
    def coefficients(self) -> tuple[str, ...]:
        return (("E",) if self.floor else ()) + tuple(term.coefficient for term in self.terms)

    @property
    def rates(self) -> tuple[str, ...]:
        return tuple(term.rate for term in self.terms)

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.coefficients + self.rates

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.variable for term in self.terms))

    def __str__(self) -> str:
        return self.text({name: name for name in self.parameters})

    def text(self, shown: Mapping[str, str]) -> str:
        """The law with its parameters as `shown`."""
        terms = [term.text(shown[term.coefficient], shown[term.rate]) for term in self.terms]
        return f"L({', '.join(self.variables)}) = " + " + ".join(
            ([shown["E"]] if self.floor else []) + terms
        )

    def loss(self, parameters: Mapping[str, float | Floats], x: Mapping[str, Floats]) -> Floats:
        """Predicted loss in nats: (N,), or (R, N) where parameters are (R,)."""
        value = {name: np.asarray(number)[..., None] for name, number in parameters.items()}
        total = value["E"] if self.floor else np.zeros(1)
        for term in self.terms:
            feature = term.feature(np.asarray(x[term.variable], dtype=np.float64))
            total = total + value[term.coefficient] * np.exp(-value[term.rate] * feature)
        return np.asarray(total)


class Size(Form):
    """L(N) = E + A / N^alpha."""

    terms = (Power("A", "alpha", "N"),)


class SizeWithoutFloor(Form):
    """L(N) = A / N^alpha: what few sizes can tell apart, and a foil for the floor."""

    terms = (Power("A", "alpha", "N"),)
    floor = False


class SizeTokens(Form):
    """L(N, T) = E + A / N^alpha + B / T^beta."""

    terms = (Power("A", "alpha", "N"), Power("B", "beta", "T"))


class Rank(Form):
    """L(r) = E + C / r^gamma."""

    terms = (Power("C", "gamma", "r"),)


class RankExponential(Form):
    """L(r) = E + C exp(-gamma r): rank that stops mattering beyond some size."""

    terms = (Exponential("C", "gamma", "r"),)


class SizeRank(Form):
    """L(N, r) = E + A / N^alpha + C / r^gamma."""

    terms = (Power("A", "alpha", "N"), Power("C", "gamma", "r"))
