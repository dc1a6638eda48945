"""What a forward and backward pass costs: time, and the most memory that its tensors hold at once.

Memory is counted as `torch.cuda.max_memory_allocated` counts it, on a CPU too: bytes of tensors alive,
beyond those alive before. A process's peak resident size is no measure of a loss that holds 30 MiB: it
adds the libraries that the first call loads (85 MiB for PyTorch's chunked loss) and tens of MiB that the
heap keeps, more and less from run to run, where the tensors' bytes are the same in every run. What
matrix-product libraries use inside is not in it.

Only torch is imported, so that this runs in other environments too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from loop import now
from torch.profiler import ProfilerActivity, profile

FEWEST = 2  # repetitions


def cost(work: Callable[[], None], device: torch.device, seconds: float) -> dict[str, float]:
    """Seconds of the fastest of the repetitions that fit `seconds`, and peak bytes of one.

    `work` must leave no tensor behind.
    """
    work()  # compiles, and loads what is loaded once
    return {"seconds": fastest(work, device, seconds), "peak_bytes": peak(work, device)}


def fastest(work: Callable[[], None], device: torch.device, seconds: float) -> float:
    found: list[float] = []
    while len(found) < FEWEST or sum(found) < seconds:
        start = now(device)
        work()
        found.append(now(device) - start)
    return min(found)


def peak(work: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    alive = most = 0
    for event in profiler.profiler.kineto_results.events():  # in the order of time
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most
