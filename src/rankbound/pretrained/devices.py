"""Where evaluation and generation compute."""

from __future__ import annotations

from typing import Literal

import torch

from rankbound.errors import InputError
from rankbound.training.language_model import LanguageModel

Device = Literal["auto", "cpu", "cuda", "mps"]


def on_device(model: LanguageModel, device: Device) -> LanguageModel:
    """The same model, on `device`; `auto` is a CUDA GPU where there is one, else the CPU.

    Raises:
        InputError: a device that this machine, or this torch, does not have.
    """
    found = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    try:
        return model.to(found)
    except (RuntimeError, AssertionError) as failure:
        why = " ".join(str(failure).split()).partition(". ")[0]
        raise InputError(f"device {device} cannot be used here: {why}") from failure
