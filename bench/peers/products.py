"""The machine's peak matrix-product rate: a large square product, per dtype, in operations a second.

python bench/peers/products.py '{"device": "cpu"}'
"""

from __future__ import annotations

import json
import sys
import time

import torch

SIZE = {"cpu": 2048, "cuda": 8192}
SECONDS = 1.0


def rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of many products; a multiply-add counts two."""
    size = SIZE[device]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


if __name__ == "__main__":
    device = json.loads(sys.argv[1])["device"]
    print(json.dumps({"fp32": rate(device, torch.float32), "bf16": rate(device, torch.bfloat16)}))
