"""litgpt's own environment, made on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1]
FOLDER = BENCH / ".venv-litgpt"
REQUIREMENTS = BENCH / "requirements-litgpt.txt"


def python() -> Path | None:
    """The environment's interpreter; None, after one line that says why, where it cannot be made."""
    interpreter = FOLDER / "bin" / "python"
    ready = FOLDER / "ready"  # an installation that was broken off leaves none
    if not ready.exists():
        print(f"making {FOLDER} for litgpt", file=sys.stderr, flush=True)
        try:
            _run(sys.executable, "-m", "venv", "--clear", FOLDER)
            _run(interpreter, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS)
        except (OSError, subprocess.CalledProcessError) as error:
            lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"litgpt is left out, its environment cannot be made: {lines[-1]}", flush=True)
            return None
        ready.touch()
    return interpreter


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
