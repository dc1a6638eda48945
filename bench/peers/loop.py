"""A plain PyTorch training loop around one contestant, in a process of its own.

    python bench/peers/loop.py '{"contestant": "neox", ...}'

A contestant is a module beside this one with `build(sizes, variant, compiled)`, which returns a model
and its loss as a function of tokens and targets, both (B, T) int64. It prints one line of JSON. Nothing
of rankbound is imported here, so that it runs in litgpt's environment too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import torch

READ_EVERY = 10  # steps between looks at the loss, as often as `rankbound fit` writes a row


def train(task: dict[str, Any]) -> dict[str, float]:
    """Tokens a second after `warmup` steps, peak memory in bytes, mean loss of the last steps."""
    device = torch.device(task["device"])
    torch.manual_seed(0)
    build = import_module(task["contestant"]).build
    model, loss_of = build(task["sizes"], task["variant"], task["compiled"])
    model.to(device)
    optimizer = adamw(model, task["optimizer"])
    batches = np.load(task["batches"], mmap_mode="r")[: task["steps"]]  # (steps, B, T + 1)
    waiting: list[torch.Tensor] = []
    losses: list[float] = []
    started = 0.0
    for step, batch in enumerate(batches, start=1):
        tokens = torch.from_numpy(batch.astype(np.int64)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = task["optimizer"]["learning_rate"] * min(1.0, step / task["optimizer"]["warmup"])
        with autocast(device, task["precision"]):
            loss = loss_of(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task["optimizer"]["clip"])
        optimizer.step()
        optimizer.zero_grad()
        waiting.append(loss.detach())
        if step % READ_EVERY == 0:
            losses = torch.stack(waiting).tolist()
            waiting.clear()
        if step == task["warmup"]:
            started = now(device)
    seconds = now(device) - started
    counted = batches[task["warmup"] :, :, 1:].size
    return {
        "tokens_per_second": counted / seconds,
        "peak_bytes": peak_bytes(device),
        "loss": sum(losses) / len(losses),
    }


def adamw(model: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings["learning_rate"], betas=settings["betas"], eps=settings["eps"], fused=True
    )


def autocast(device: torch.device, precision: str) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_bytes(device: torch.device) -> int:
    """Most memory so far: allocated on the device for a GPU, else held by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
