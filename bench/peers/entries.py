"""What takes part in the measurement of heads, one run of each in its own process, and the runs' ratios."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from measure import ChildError, peer

COMPONENTS = (2, 4, 8)
LINEAR_WAYS = ("ours", "linear_cross_entropy", "cross_entropy")
WINDOW = 128
ATTENTION_HEAD = 32
MODEL_COMPONENTS = 4
MODEL_MODULES = {"ours": "own_mixture", "x-transformers": "x_transformers_mixture"}
MODEL_SETTINGS = ((False, "fp32"), (True, "fp32"), (True, "bf16"))  # (compiled, precision)


@dataclass(frozen=True)
class Entry:
    """One head's loss, computed one way."""

    head: str
    way: str
    precision: str
    settings: tuple[tuple[str, int], ...] = ()

    @property
    def judged(self) -> bool:
        return self.head in ("Linear", "MixtureOfSoftmaxes") and self.way != "naive"

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.head}({settings})" if settings else self.head

    def naive(self) -> Entry:
        return replace(self, way="naive", precision="fp32")

    def linear(self) -> Entry:
        return Entry("Linear", "ours", self.precision)

    def run(self, options: argparse.Namespace, folder: Path) -> dict[str, float] | None:
        """None, after a line that says why, where the naive formula does not fit into memory."""
        automatic = self.precision == "bf16" or options.device == "cuda"
        task = {
            **_shared(options),
            "head": self.head,
            "settings": dict(self.settings),
            "way": self.way,
            "precision": self.precision,
            "compiled": options.compile == "always" or (options.compile == "auto" and automatic),
            "rows": options.rows,
            "hidden_size": options.hidden_size,
            "vocab_size": options.vocab_size,
            "reference": str(folder / f"{self}.pt"),
        }
        try:
            return peer(sys.executable, "softmaxes.py", task, options.threads)
        except ChildError as error:
            if self.way != "naive":
                raise
            print(f"{self}, the naive formula is left out: {error}", flush=True)
            return None


@dataclass(frozen=True)
class Model:
    """A whole model of one layer, with a mixture or, at 0 components, with a linear head."""

    who: str
    python: str
    components: int
    compiled: bool
    precision: str
    judged: bool = True

    def __str__(self) -> str:
        return f"{self.who} with {self.components} components"

    def run(self, options: argparse.Namespace, folder: Path) -> dict[str, float]:
        width = options.hidden_size
        task = {
            **_shared(options),
            "contestant": MODEL_MODULES[self.who],
            "components": self.components,
            "compiled": self.compiled,
            "precision": self.precision,
            "batch": max(1, options.rows // WINDOW),
            "sizes": {
                "vocab_size": options.vocab_size,
                "hidden_size": width,
                "attention_heads": 1 if width % ATTENTION_HEAD else width // ATTENTION_HEAD,
                "window": WINDOW,
            },
        }
        return peer(self.python, "whole_model.py", task, options.threads)


def _shared(options: argparse.Namespace) -> dict[str, Any]:
    return {"device": options.device, "seconds": options.seconds}


def contestants(options: argparse.Namespace, names: Sequence[str]) -> list[Entry]:
    """Every head at its defaults, mixtures and low rank at some sizes; `Linear`, the measure, always."""
    unknown = set(options.heads or ()) - set(names)
    if unknown:
        sys.exit(f"--heads: no head is named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    sizes: dict[str, list[tuple[tuple[str, int], ...]]] = {
        "MixtureOfSoftmaxes": [(("components", k),) for k in COMPONENTS],
        "Factorized": [(("rank", rank),) for rank in (16, options.hidden_size)],
    }
    chosen = ["Linear", *(n for n in names if n != "Linear" and (not options.heads or n in options.heads))]
    found: list[Entry] = []
    for name in chosen:
        for settings in sizes.get(name, [()]):
            found.append(Entry(name, "naive", "fp32", settings))
            ways = LINEAR_WAYS if name == "Linear" else ("ours",)
            found += [Entry(name, way, p, settings) for p in options.precision for way in ways]
    return found


def models(options: argparse.Namespace, python: Path | None) -> Iterator[Model]:
    """Ours and x-transformers', with the mixture and without; none where `python` is."""
    if python is None:
        return
    interpreters = {"ours": sys.executable, "x-transformers": str(python)}
    for compiled, precision in MODEL_SETTINGS:
        if precision in options.precision:
            for who, interpreter in interpreters.items():
                for components in (0, MODEL_COMPONENTS):
                    yield Model(who, interpreter, components, compiled, precision)


class Results:
    """Runs by who made them, in the order of rounds."""

    def __init__(self) -> None:
        self.runs: dict[Entry | Model, list[dict[str, float]]] = defaultdict(list)

    def add(self, entry: Entry | Model, run: dict[str, float] | None) -> None:
        if run is not None:
            self.runs[entry].append(run)

    def of(self, kind: type) -> list[Any]:
        return [entry for entry in self.runs if isinstance(entry, kind)]

    def middle(self, entry: Entry | Model, name: str) -> float:
        return median(run[name] for run in self.runs[entry])

    def ratio(self, above: Entry, below: Entry, name: str) -> float:
        """The median of the rounds' ratios; of medians, where one was measured in the first round only."""
        pairs = self.runs[above], self.runs[below]
        if len(pairs[0]) != len(pairs[1]):
            return self.middle(above, name) / self.middle(below, name)
        return median(a[name] / b[name] for a, b in zip(*pairs, strict=True))

    def added(self, mixture: Model, name: str) -> float:
        """What the mixture adds to the same model without it."""
        plain = replace(mixture, components=0)
        pairs = zip(self.runs[mixture], self.runs[plain], strict=True)
        return median(with_it[name] - without[name] for with_it, without in pairs)
