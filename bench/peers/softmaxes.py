"""One head's loss, forward and backward, in a process of its own: time, memory, error.

    python bench/peers/softmaxes.py '{"head": "MixtureOfSoftmaxes", "way": "naive", ...}'

Ways: `ours` is `ChunkedLoss`; `naive` is the formula as it stands, every log-probability of every row at
once; `linear_cross_entropy` and `cross_entropy` are PyTorch's for a linear head. The first process of a
head writes the naive formula's results in float64 to a file that all of them are compared with. Prints one
line of JSON.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cost import cost
from loop import autocast
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rankbound import heads

REFERENCE_ROWS = 256
TINY = 1e-30

#: Mean loss: states (N, D), targets (N,) -> ().
Loss = Callable[[Tensor, Tensor], Tensor]


def main(task: dict[str, Any]) -> dict[str, float]:
    device = torch.device(task["device"])
    head, hidden, target = inputs(task, device)
    loss_of = WAYS[task["way"]](head, task)

    found: dict[str, Tensor] = {}

    def step() -> None:
        found["loss"] = forward_backward(task, loss_of, hidden, target)

    result = cost(step, lambda: drop_gradients(head, hidden), device, task["seconds"])
    found |= gradients(head, hidden)
    return result | errors(found, reference(Path(task["reference"]), head, hidden, target))


def inputs(task: dict[str, Any], device: torch.device) -> tuple[heads.Head, Tensor, Tensor]:
    """The head, states (N, D) as a final LayerNorm leaves them, targets (N,)."""
    torch.manual_seed(0)
    head = heads.all_heads()[task["head"]](task["hidden_size"], task["vocab_size"], **task["settings"])
    hidden = torch.randn(task["rows"], task["hidden_size"])
    target = torch.randint(task["vocab_size"], (task["rows"],))
    return head.to(device), hidden.to(device).requires_grad_(), target.to(device)


def ours(head: heads.Head, task: dict[str, Any]) -> Loss:
    """`ChunkedLoss`; compiled where asked, in float32 on a CPU too, which it declines of itself."""
    declines = task["device"] == "cpu" and task["precision"] == "fp32"
    if task["compiled"] and declines and head.compiles:
        head.nll = torch.compile(head.nll, dynamic=False)
    return heads.ChunkedLoss(head, compile=task["compiled"] and not declines)


def naive(head: heads.Head, task: dict[str, Any]) -> Loss:
    """All log-probabilities (N, V), a mixture's by those of each component (N, K, V)."""
    return lambda hidden, target: F.nll_loss(head.log_prob(hidden), target)


def torch_chunked(head: heads.Head, task: dict[str, Any]) -> Loss:
    """PyTorch's `linear_cross_entropy` in chunks; it knows no autocast, and its own mean is in bfloat16."""
    dtype = torch.bfloat16 if task["precision"] == "bf16" else torch.float32
    options = torch.nn.LinearCrossEntropyOptions()

    def loss(hidden: Tensor, target: Tensor) -> Tensor:
        weight = head.weight.to(dtype)
        rows = F.linear_cross_entropy(hidden.to(dtype), weight, target, reduction="none", options=options)
        return rows.float().mean()

    return loss


def cross_entropy(head: heads.Head, task: dict[str, Any]) -> Loss:
    """Logits, then PyTorch's cross entropy, compiled together."""

    def loss(hidden: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, head.weight), target)

    return torch.compile(loss, dynamic=False)


WAYS = {"ours": ours, "naive": naive, "linear_cross_entropy": torch_chunked, "cross_entropy": cross_entropy}


def forward_backward(task: dict[str, Any], loss_of: Loss, hidden: Tensor, target: Tensor) -> Tensor:
    with autocast(hidden.device, task["precision"]):
        loss = loss_of(hidden, target)
    loss.backward()
    return loss.detach()


def drop_gradients(head: heads.Head, hidden: Tensor) -> None:
    head.zero_grad()
    hidden.grad = None


def gradients(head: heads.Head, hidden: Tensor) -> dict[str, Tensor]:
    return {"hidden": hidden.grad} | {name: p.grad for name, p in head.named_parameters()}


def reference(path: Path, head: heads.Head, hidden: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss and gradients of the naive formula in float64, some rows at a time; from `path` if it exists."""
    if path.exists():
        return torch.load(path, map_location=hidden.device)
    drop_gradients(head, hidden)
    exact = copy.deepcopy(head).double()
    wide = hidden.detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for rows, targets in zip(wide.split(REFERENCE_ROWS), target.split(REFERENCE_ROWS), strict=True):
        part = naive(exact, {})(rows, targets) * (len(rows) / len(wide))
        part.backward()
        total += part.detach()
    found = gradients(exact, wide) | {"loss": total}
    torch.save(found, path)
    return found


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of the loss, and of the gradient it is largest for (in the 2-norm)."""
    relative = {}
    for name, exact in expected.items():
        size = exact.norm().clamp(min=TINY)  # a layer behind one that starts at zero has no gradient yet
        relative[name] = float((found[name].double() - exact).norm() / size)
    return {"loss_error": relative.pop("loss"), "gradient_error": max(relative.values())}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
