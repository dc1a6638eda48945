"""What a diagnosis holds, and its verdict in one paragraph.

Design decisions:
- Plain numbers and text: it is written as JSON beside the report and read back without the model.
- The verdict says what was found, how sure it is, and what could not be told, in that order; it never calls
  a search without power a search without a find.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rankbound.analysis import words
from rankbound.analysis.headroom import LEAST_POWER, Headroom
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.rank_cuts import RankCuts
from rankbound.runs import write_once

#: A loss that the verdict names the rank of: the largest rank at which the cut head loses so much.
NAMED_LOSS = 0.1


@dataclass(frozen=True)
class Diagnosis:
    """One model on one text.

    - `name`, `head`, `text`: what was measured, in words
    - `loss`: nats a token on all `tokens`
    - `figures`: numbers by the names that a run's recorder gives them
    - `spectrum`: singular values of the head's matrix that reads, largest first
    - `cuts`, `headroom`: None where the head is not linear in the state, or was not asked for
    - `notes`: what is missing or limits the rest, a sentence each
    - `seconds`: by stage
    """

    name: str
    head: str
    text: str
    vocab_size: int
    hidden_size: int
    tokens: int
    loss: Estimate
    figures: Mapping[str, float]
    spectrum: tuple[float, ...]
    cuts: RankCuts | None = None
    headroom: Headroom | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    command: str = ""

    @property
    def layers(self) -> list[str]:
        """Names of the layers that states were measured at, in order."""
        parts = (name.split("/") for name in self.figures if name.endswith("/anisotropy"))
        return [part[1] for part in parts if part[0] == "hidden"]

    def verdict(self) -> str:
        """One paragraph."""
        return " ".join(part for part in (_gain(self.headroom), _cut(self.cuts), _tokens(self)) if part)

    def write(self, path: Path) -> None:
        """All of it as JSON; numbers that are not finite become null."""
        content = {**asdict(self), "layers": self.layers, "verdict": self.verdict()}
        if self.cuts is not None:
            content["cuts"]["knee"] = self.cuts.knee
        write_once(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def plus_minus(found: Estimate, unit: str = "", percent: bool = False) -> str:
    """`0.012 ± 0.004 nats`, with the digits the interval is good for; `80 % ± 5 %`."""
    if percent:
        half = f" {words.PLUS_MINUS} {100 * found.half_width:.0f}" if found.error > 0 else ""
        return f"{100 * found.mean:.0f}{half} %"
    digits = max(3, words.decimals(found))
    if not found.error > 0:
        return f"{found.mean:.{digits}f} {unit}".rstrip()
    return f"{found.mean:.{digits}f} {words.PLUS_MINUS} {found.half_width:.{digits}f} {unit}".rstrip()


def _gain(found: Headroom | None) -> str:
    if found is None:
        return ""
    if found.cannot:
        return f"Whether a better head would gain: cannot tell, as {found.cannot}."
    count = f"at {found.tokens[0]:,} tokens"
    power = f"probe power {plus_minus(found.power, percent=True)}"
    if not found.told:
        least = (
            f" What it found all the same is {plus_minus(found.gain, 'nats per token')}."
            if found.gain.low > 0
            else ""
        )
        return f"Whether a better head would gain: cannot tell {count}, since {_weakness(found)}.{least}"
    if found.found:
        more = "; still rising with more text" if found.trend.low > 0 else ""
        return f"At least {plus_minus(found.gain, 'nats per token')} to gain {count} ({power}{more})."
    gain = plus_minus(found.gain, "nats per token")
    return f"No gain was found {count}: {gain} over a linear correction of the same size ({power})."


def _weakness(found: Headroom) -> str:
    """Why the search has no say."""
    if not found.planted.low > 0:
        planted = plus_minus(found.planted, "nats")
        return f"the known loss that the probe is tried on, {planted}, cannot itself be told from none"
    return (
        f"the probe won back only {plus_minus(found.power, percent=True)} of a known loss of "
        f"{found.planted.mean:.3f} nats, and less than {LEAST_POWER:.0%} is too little to conclude from "
        "silence"
    )


def _cut(cuts: RankCuts | None) -> str:
    if cuts is None:
        return ""
    knee = f"the curve's knee is at rank {cuts.knee:,}"
    rank = cuts.rank_at(NAMED_LOSS)
    if rank is None:
        least = cuts.cuts[0]
        return f"The head loses less than {NAMED_LOSS} nats even when cut to rank {least.rank:,}; {knee}."
    lost = next(cut.lost for cut in cuts.cuts if cut.rank == rank)
    return f"The head loses {plus_minus(lost, 'nats')} when cut to rank {rank:,}; {knee}."


def _tokens(found: Diagnosis) -> str:
    count = found.figures.get("unargmaxable/unargmaxable")
    if count is None:
        return ""
    undecided = found.figures.get("unargmaxable/undecided", 0.0)
    left = f", {undecided:,.0f} undecided" if undecided else ""
    if not count and not undecided:
        return f"Each of its {found.vocab_size:,} tokens can be predicted."
    return f"{count:,.0f} of its {found.vocab_size:,} tokens can never be predicted{left}."


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
