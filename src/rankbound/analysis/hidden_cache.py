"""Hidden states of a text's tokens, kept on disk in half precision or made again where they do not fit.

Design decisions:
- Whoever reads states asks for rows and gets float32; whether they come from memory, a file or the model
  is decided once, by a budget of disk that the user states.
- Half precision is float16, not bfloat16: a state's entries are of one size, so digits count and range does
  not. Each row is scaled by a power of two to a largest entry below 1, so that no state overflows.
- The file is a temporary one, and is gone when the last reader of it is.

Shapes: N rows, D hidden size, B windows, T tokens a window.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rankbound.errors import InputError

#: Windows (b,) int64, ascending, -> states (b T, D) of all their tokens.
Forward = Callable[[Tensor], Tensor]


class States(Protocol):
    """States by row."""

    @property
    def width(self) -> int: ...

    @property
    def block(self) -> int:
        """Consecutive rows that cost no more than one of them; choose whole blocks."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """Rows (n,) int64 -> states (n, D), float32 or wider."""


class InMemory:
    """States that are there as a tensor (N, D)."""

    block = 1

    def __init__(self, hidden: Tensor) -> None:
        if hidden.ndim != 2 or not hidden.numel():
            raise InputError(f"hidden states have the shape {tuple(hidden.shape)}; it must be (N, D)")
        self._hidden = hidden.detach()

    @property
    def width(self) -> int:
        return self._hidden.shape[1]

    def __len__(self) -> int:
        return len(self._hidden)

    def take(self, rows: Tensor) -> Tensor:
        states = self._hidden[rows]
        return states if states.dtype == torch.float64 else states.float()


class OnDisk:
    """States in a temporary memory-mapped file, 2 D + 2 bytes a row.

    Args:
        chunks: states (n, D) of consecutive rows, as many as there are rows in all.
        rows: N.
        width: D.
        folder: where the file goes; the system's folder for temporary files if not given.
    """

    block = 1

    def __init__(self, chunks: Iterator[Tensor], rows: int, width: int, folder: Path | None = None) -> None:
        self._shape = (rows, width)
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this object
        self._file.truncate(bytes_needed(rows, width))
        self._states: Any = np.memmap(self._file, np.float16, "r+", 0, self._shape)
        self._powers = np.empty(rows, np.int16)
        start = 0
        for chunk in chunks:
            stop = start + len(chunk)
            if not torch.isfinite(chunk).all():
                raise InputError("the model's hidden states are not finite; are its weights damaged?")
            power_n = torch.frexp(chunk.abs().amax(1).clamp(min=1e-30)).exponent
            self._states[start:stop] = torch.ldexp(chunk.float(), -power_n[:, None]).half().cpu().numpy()
            self._powers[start:stop] = power_n.to(torch.int16).cpu().numpy()
            start = stop
        if start != rows:
            raise InputError(f"there were states of {start} rows where {rows} were announced")

    @property
    def width(self) -> int:
        return self._shape[1]

    def __len__(self) -> int:
        return self._shape[0]

    def take(self, rows: Tensor) -> Tensor:
        index = rows.cpu().numpy()
        states = torch.from_numpy(self._states[index]).float()
        return torch.ldexp(states, torch.from_numpy(self._powers[index].astype(np.int32))[:, None])


class Recomputed:
    """States made by the model whenever they are asked for, whole windows at a time.

    Args:
        forward: the model's part up to the head.
        windows: B.
        length: T, tokens of a window; row i is token i % T of window i // T.
        width: D.
        batch: windows of one forward pass.
    """

    def __init__(self, forward: Forward, windows: int, length: int, width: int, batch: int = 8) -> None:
        self._forward, self._length, self._batch = forward, length, batch
        self._rows, self._width = windows * length, width

    @property
    def width(self) -> int:
        return self._width

    @property
    def block(self) -> int:
        return self._length

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Tensor) -> Tensor:
        rows = rows.cpu()
        wanted, place = torch.unique(rows // self._length, return_inverse=True)
        states = torch.empty(len(rows), self._width)
        for start in range(0, len(wanted), self._batch):
            made = self._forward(wanted[start : start + self._batch]).float().cpu()
            here = (place >= start) & (place < start + self._batch)
            states[here] = made[(place[here] - start) * self._length + rows[here] % self._length]
        return states


def hidden_states(
    forward: Forward,
    windows: int,
    length: int,
    width: int,
    *,
    disk_budget: int,
    folder: Path | None = None,
    batch: int = 8,
    progress: Callable[[float], None] | None = None,
) -> OnDisk | Recomputed:
    """States of all windows: on disk where they fit the budget in bytes and the disk, else made anew.

    Args:
        forward: windows (b,) -> states (b T, D).
        windows: B.
        length: T.
        width: D.
        disk_budget: bytes; 0 to write nothing.
        folder: of the file.
        batch: windows of one forward pass.
        progress: told the share that is done.
    """
    needed = bytes_needed(windows * length, width)
    free = shutil.disk_usage(folder or tempfile.gettempdir()).free
    if needed > min(disk_budget, free // 2):
        return Recomputed(forward, windows, length, width, batch)

    def chunks() -> Iterator[Tensor]:
        for start in range(0, windows, batch):
            yield forward(torch.arange(start, min(start + batch, windows)))
            if progress:
                progress(min(start + batch, windows) / windows)

    return OnDisk(chunks(), windows * length, width, folder)


def bytes_needed(rows: int, width: int) -> int:
    """Of the file."""
    return 2 * rows * width
