"""What the measurements share: children in processes of their own, the machine's name, a table.

Design decisions:
- Every contestant runs in a process of its own: its peak memory is its own, and none warms another's
  caches. The parent stays light and never imports torch, since on Linux a child's ru_maxrss begins at
  its parent's.
- Contestants take turns in rounds and a ratio is the median of the rounds' ratios: what slows a shared
  machine slows a whole round.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

PEERS = Path(__file__).parent / "peers"

T = TypeVar("T")


class ChildError(RuntimeError):
    """A child ended with an error; the message is its last line."""


def child(command: Sequence[str | Path], threads: int) -> str:
    """Standard output of a process limited to `threads` threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise ChildError(f"{command[1]} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout


def peer(python: str | Path, script: str, task: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What `bench/peers/SCRIPT` printed for `task`: its last line, JSON."""
    output = child([python, PEERS / script, json.dumps(task)], threads)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def turn(number: int, contestants: Sequence[T]) -> Sequence[T]:
    """The order of a round: every other one backwards, so that a drift favours none."""
    return contestants if number % 2 == 0 else contestants[::-1]


def machine() -> str:
    """The machine at hand, in one line."""
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {load:.1f}; "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def _processor() -> str:
    """The processor's name, with the vector units that decide how fast it multiplies bfloat16."""
    try:
        lines = [
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
        ]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, value in lines}
    flags = [
        f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in facts.get("flags", "").split()
    ]
    return f"{facts.get('model name', platform.machine())} ({', '.join(flags) or 'no vector units'})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned; the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]

    def joined(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    return "\n".join(joined(line) for line in (lines[0], rule, *lines[1:]))


def megabytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def verdict(what: str, found: float, bar: float, at_most: bool = False) -> str:
    """One line that says whether a bar holds: at least so much, or at most."""
    holds = found <= bar if at_most else found >= bar
    side = "at most" if at_most else "at least"
    return f"{'holds' if holds else 'FAILS'}: {what}: {found:.2f}, the bar is {side} {bar:g}"
