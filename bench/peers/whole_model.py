"""One model of one layer, forward and backward with its loss: time and memory.

    python bench/peers/whole_model.py '{"contestant": "own_mixture", "components": 4, ...}'

A contestant is a module beside this one with `build(sizes, components, compiled)`, which returns a model
and its loss as a function of tokens and targets, both (B, T) int64; with 0 components it has a plain linear
head. Prints one line of JSON. Nothing of rankbound is imported here, so that it runs in other environments.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import torch
from cost import cost
from loop import autocast


def main(task: dict[str, Any]) -> dict[str, float]:
    device, sizes = torch.device(task["device"]), task["sizes"]
    torch.manual_seed(0)
    build = import_module(task["contestant"]).build
    model, loss_of = build(sizes, task["components"], task["compiled"])
    model.to(device)
    shape = (task["batch"], sizes["window"])
    tokens, targets = (torch.randint(sizes["vocab_size"], shape, device=device) for _ in range(2))

    def step() -> None:
        with autocast(device, task["precision"]):
            loss = loss_of(tokens, targets)
        loss.backward()

    return cost(step, model.zero_grad, device, task["seconds"])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
