"""Whether to compile: where it pays and a compiler is at hand.

torch.compile needs a C++ compiler on a CPU and a C compiler on a GPU. Its code is cached on disk between
processes, so a study compiles a shape once. In float32 on a CPU it gains a tenth of a step and costs
ten seconds or more of start (`python bench/training_step.py` shows both); `auto` leaves it out there.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Literal

import torch

CompileMode = Literal["auto", "always", "never"]


def pays(device: torch.device, precision: str) -> bool:
    """Whether compiling makes steps much faster on this device, at a Lightning `precision`."""
    return device.type != "cpu" or not precision.startswith(("32", "64"))


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine, in words; None if nothing."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers were not found (python3-dev)"
    if device.type == "cpu":
        found = shutil.which(os.environ.get("CXX") or "g++")
        return None if found else "no C++ compiler was found (g++, or what CXX names)"
    found = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("clang")
    return None if found else "no C compiler was found (gcc, clang, or what CC names)"
