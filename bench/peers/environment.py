"""Environments of their own for peers whose pins clash with ours or that only a bench needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1]


def python(name: str) -> Path | None:
    """Interpreter of the environment that `requirements-NAME.txt` describes, made on first use.

    None, after one line that says why, where it cannot be made.
    """
    folder = BENCH / f".venv-{name}"
    interpreter = folder / "bin" / "python"
    ready = folder / "ready"  # an installation that was broken off leaves none
    if not ready.exists():
        print(f"making {folder} for {name}", file=sys.stderr, flush=True)
        requirements = BENCH / f"requirements-{name}.txt"
        try:
            _run(sys.executable, "-m", "venv", "--clear", folder)
            _run(interpreter, "-m", "pip", "install", "--quiet", "--requirement", requirements)
        except (OSError, subprocess.CalledProcessError) as error:
            lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"{name} is left out, its environment cannot be made: {lines[-1]}", flush=True)
            return None
        ready.touch()
    return interpreter


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
