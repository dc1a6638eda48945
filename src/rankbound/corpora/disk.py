"""Files that are whole or absent, folders that one process at a time works in, memory given back."""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankbound.errors import InputError


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that appears under its name once it is whole and on disk.

    Python's own calls, not NumPy's `tofile`, which hides why a write failed.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def npy(array: NDArray[Any]) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Make `folder` and hold it; the system lets go of it if this process dies.

    Raises:
        InputError: Another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{what} is being made by another process: wait for it or end it"
                ) from error
            if not _is(folder, handle):  # it was finished and removed in between
                continue
            yield
            return
        finally:
            os.close(handle)


def give_back_memory() -> None:
    """Have the C library return what it no longer uses: glibc keeps hundreds of MB after a training."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _is(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
