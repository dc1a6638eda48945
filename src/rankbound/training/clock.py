"""Seconds by name, with a GPU's queue emptied at both ends of what is timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Clock:
    """Counts wall time under names; `seconds` is all of its state.

    Args:
        device: whose queued work belongs to who queued it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, *names: str) -> Iterator[None]:
        """Count the time inside under each name, also where it ends in an exception."""
        self.synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.synchronize()
            for name in names:
                self.seconds[name] += time.perf_counter() - start

    def below(self, prefix: str) -> dict[str, float]:
        """Seconds of the names that begin with `prefix`."""
        return {name: spent for name, spent in self.seconds.items() if name.startswith(prefix)}

    def restore(self, seconds: Mapping[str, float]) -> None:
        """Go on from earlier counts."""
        self.seconds = defaultdict(float, seconds)

    def synchronize(self) -> None:
        """Wait for what is queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
