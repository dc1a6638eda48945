"""Measuring on a machine that others use too.

With patience, a measurement waits for the machine to be idle and is repeated where other processes took
more than a small share of it meanwhile: a parallel loop waits for its slowest thread, so even one busy
neighbour can slow a step tenfold. Read from /proc/stat; elsewhere nothing waits.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SHARE = 0.05  # of the machine that others may take
SAMPLE = 1.0  # seconds

T = TypeVar("T")


class Quiet:
    """Runs measurements undisturbed, as far as `patience` seconds in all allow."""

    def __init__(self, patience: float) -> None:
        self._left = patience
        self.measured = self.disturbed = 0

    def run(self, measurement: Callable[[], T]) -> T:
        while True:
            self._wait()
            began = time.perf_counter()
            result, share = watched(measurement)
            disturbed = share > SHARE
            if disturbed and self._left > 0:
                self._left -= time.perf_counter() - began
                print(f"  repeated: others took {share:.0%} of the machine", file=sys.stderr, flush=True)
                continue
            self.measured += 1
            self.disturbed += disturbed
            return result

    def __str__(self) -> str:
        if others_seconds() is None:
            return "whether other processes disturbed the runs is not known"
        return f"{self.disturbed} of {self.measured} runs disturbed (others took over {SHARE:.0%})"

    def _wait(self) -> None:
        while self._left > 0 and watched(lambda: time.sleep(SAMPLE))[1] > SHARE:
            self._left -= SAMPLE


def watched(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and the share of the machine that other processes took meanwhile."""
    began, before = time.perf_counter(), others_seconds()
    result = work()
    after, seconds = others_seconds(), time.perf_counter() - began
    if before is None or after is None:
        return result, 0.0
    return result, (after - before) / (seconds * (os.cpu_count() or 1))


def others_seconds() -> float | None:
    """Processor seconds of every process but this one and its children; None where that is not known."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    except OSError:
        return None
    own = os.times()
    ours = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - ours
