"""One head's loss, forward and backward, in a process of its own: time, peak memory, error.

    python bench/peers/softmaxes.py '{"head": "MixtureOfSoftmaxes", "way": "naive", ...}'

Ways: `ours` is `ChunkedLoss`; `naive` is the formula as it stands, every log-probability of every row at
once; `inputs` only holds the inputs, and what torch.compile needs to run at all where it is asked for, so
that another way's peak less this one's is the loss's own; `reference` is the naive formula in float64, some
rows at a time, written to a file that the others are compared with. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from loop import autocast, now, peak_bytes
from torch import Tensor

from rankbound import heads

REFERENCE_ROWS = 256


def main(task: dict[str, Any]) -> dict[str, float]:
    device = torch.device(task["device"])
    head, hidden, target = inputs(task, device)
    if task["way"] == "inputs":
        if task["compiled"]:
            torch.compile(lambda x: (x @ x.T).exp().sum())(torch.ones(2, 2, device=device))
        return {"peak_bytes": peak_bytes(device)}
    if task["way"] == "reference":
        torch.save(reference(head.double(), hidden, target), task["reference"])
        return {}
    loss_of = naive(head) if task["way"] == "naive" else ours(head, task["compiled"])
    loss = forward_backward(task, head, hidden, target, loss_of)  # compiles
    seconds = []
    for _ in range(task["repetitions"]):
        start = now(device)
        loss = forward_backward(task, head, hidden, target, loss_of)
        seconds.append(now(device) - start)
    result = {"seconds": min(seconds), "peak_bytes": peak_bytes(device)}
    return result | errors(
        loss, gradients(head, hidden), torch.load(task["reference"], map_location=device)
    )


def inputs(task: dict[str, Any], device: torch.device) -> tuple[heads.Head, Tensor, Tensor]:
    """The head, states (N, D) as a final LayerNorm leaves them, targets (N,)."""
    torch.manual_seed(0)
    head = heads.all_heads()[task["head"]](task["hidden_size"], task["vocab_size"], **task["settings"])
    hidden = torch.randn(task["rows"], task["hidden_size"])
    target = torch.randint(task["vocab_size"], (task["rows"],))
    return head.to(device), hidden.to(device).requires_grad_(), target.to(device)


def naive(head: heads.Head) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss by all log-probabilities (N, V), a mixture's by those of each component (N, K, V)."""
    return lambda hidden, target: torch.nn.functional.nll_loss(head.log_prob(hidden), target)


def ours(head: heads.Head, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """`ChunkedLoss`; compiled in float32 too, which on a CPU it declines of itself."""
    if compiled:
        head.nll = torch.compile(head.nll, dynamic=False)
    return heads.ChunkedLoss(head)


def forward_backward(
    task: dict[str, Any],
    head: heads.Head,
    hidden: Tensor,
    target: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    head.zero_grad()
    hidden.grad = None
    with autocast(hidden.device, task["precision"]):
        loss = loss_of(hidden, target)
    loss.backward()
    return loss.detach()


def gradients(head: heads.Head, hidden: Tensor) -> dict[str, Tensor]:
    return {"hidden": hidden.grad} | {name: p.grad for name, p in head.named_parameters()}


def reference(head: heads.Head, hidden: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss and gradients in float64."""
    wide = hidden.detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for rows, targets in zip(wide.split(REFERENCE_ROWS), target.split(REFERENCE_ROWS), strict=True):
        part = naive(head)(rows, targets) * (len(rows) / len(wide))
        part.backward()
        total += part.detach()
    return {"loss": total} | gradients(head, wide)


def errors(loss: Tensor, found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of the loss, and of the gradient it is largest for (in the 2-norm)."""
    relative = [
        float((found[name].double() - expected[name]).norm() / expected[name].norm()) for name in found
    ]
    return {
        "loss_error": abs(float(loss) - float(expected["loss"])) / float(expected["loss"]),
        "gradient_error": max(relative),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
