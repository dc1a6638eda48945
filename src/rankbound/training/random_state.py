"""Random state of every process, saved and restored: Lightning saves none.

State is plain lists and tensors, since a checkpoint is loaded with `weights_only=True`.
"""

from __future__ import annotations

import random
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch import Callback


class RandomState(Callback):
    """Python's, NumPy's and PyTorch's generators of every rank and its device.

    On a fresh start with several processes each gets a seed of its own, or all would draw the same
    dropout masks. Resumed with another number of processes, the ones without a state keep such a seed.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []
        self._device = torch.device("cpu")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank = trainer.global_rank
        if rank < len(self._states):
            restore_random_state(self._states[rank], self._device)
        elif rank > 0:
            L.seed_everything(torch.initial_seed() % 2**31 + rank, verbose=False)

    def state_dict(self) -> dict[str, Any]:
        mine = random_state(self._device)
        if not torch.distributed.is_initialized():
            return {"states": [mine]}
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, mine)
        return {"states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._states = state_dict["states"]


def random_state(device: torch.device) -> dict[str, Any]:
    """This process's random state, with that of `device`, as plain data."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo everything drawn since `random_state` gave `state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
