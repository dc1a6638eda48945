"""Whether to compile: where a compiler is at hand and the run is long enough to pay it back.

torch.compile needs a C++ compiler on a CPU and a C compiler on a GPU. Its code is cached on disk
between processes, so a study compiles a shape once.
"""

from __future__ import annotations

import os
import shutil
from typing import Literal

import torch

CompileMode = Literal["auto", "always", "never"]


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine, in words; None if nothing."""
    if device.type == "cpu":
        names = [os.environ.get("CXX", "g++"), "clang++"]
        return None if any(map(shutil.which, names)) else "no C++ compiler (g++ or clang++) was found"
    names = [os.environ.get("CC", "gcc"), "clang"]
    return None if any(map(shutil.which, names)) else "no C compiler (gcc or clang) was found"
