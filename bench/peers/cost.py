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


def cost(
    step: Callable[[], object], forget: Callable[[], object], device: torch.device, seconds: float
) -> dict[str, float]:
    """Seconds of the fastest of the repetitions that fit `seconds`, and peak bytes of one.

    `step` leaves gradients behind, those of the last one stay; `forget` drops them.
    """
    step()  # compiles, and loads what is loaded once
    forget()
    found: list[float] = []
    while not found or sum(found) < seconds:
        start = now(device)
        step()
        found.append(now(device) - start)
        forget()
    return {"seconds": min(found), "peak_bytes": peak(step, device)}


def peak(step: Callable[[], object], device: torch.device) -> int:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    alive = most = 0
    for event in profiler.profiler.kineto_results.events():  # in the order of time
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most
