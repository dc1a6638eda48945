"""Whether to compile: where it pays and a compiler is at hand.

torch.compile needs a C++ compiler on a CPU and a C compiler on a GPU. Its code is cached on disk between
processes, so a study compiles a shape once. In float32 on a CPU it gains a few percent of a step and costs
ten seconds or more of start (`python bench/training_step.py` shows both); `auto` leaves it out there.
"""

from __future__ import annotations

import os
import shutil
from typing import Literal

import torch

CompileMode = Literal["auto", "always", "never"]


def pays(device: torch.device, precision: str) -> bool:
    """Whether compiling makes steps much faster on this device, at a Lightning `precision`."""
    return device.type != "cpu" or not precision.startswith(("32", "64"))


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine, in words; None if nothing."""
    if device.type == "cpu":
        names = [os.environ.get("CXX", "g++"), "clang++"]
        return None if any(map(shutil.which, names)) else "no C++ compiler (g++ or clang++) was found"
    names = [os.environ.get("CC", "gcc"), "clang"]
    return None if any(map(shutil.which, names)) else "no C compiler (gcc or clang) was found"
