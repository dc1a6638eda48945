"""What a run ran on: versions, commit, device, memory."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch

import rankbound


def environment(device: torch.device) -> dict[str, Any]:
    """What a run ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["rankbound", *sys.argv[1:]]),
        "rankbound": rankbound.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "platform": platform.platform(),
        "device": f"{device.type} {name}".strip(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory allocated so far: on the device for a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git_commit() -> str | None:
    """The commit of the source that runs; None where it is not under git."""
    here = Path(__file__)
    tracked = ["ls-files", "--error-unmatch", here.name]  # else some other project's repository
    describe = ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        for command in (tracked, describe):
            found = subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
