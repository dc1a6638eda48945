"""Keep freed memory: glibc hands large buffers back to the system and faults them in again.

A training step, or a batch that is scored, allocates and frees the same tens of megabytes every time. By
default glibc maps large blocks afresh and trims the heap, so each time pages are faulted in and zeroed: on
two cores, at hidden size 128, 4 layers and vocabulary 8,192, this took 117 ms a step where 89 do
(docs/measurements.md).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_BLOCK = 32 * 2**20  # the largest that glibc takes for a heap block
KEPT = 2**30


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; False where the C library is another."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
