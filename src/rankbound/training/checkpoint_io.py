"""Checkpoint files that are whole or absent, and are checked before they are trusted.

Design decisions:
- A file is written beside its place, synced, and renamed: a kill at any moment leaves the old file or the
  new one. Lightning's own writer does not sync.
- `last.ckpt` is a hard link made the same way, so there is no moment without one.
- torch writes zip archives with a checksum an entry and does not read them; `damage` does.
- Loading is always `weights_only`: a checkpoint from elsewhere must not run code.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO

from rankbound import runs
from rankbound.errors import InputError


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint so that a reader sees all of it or none."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                _sync(file)
            partial.replace(path)
        except BaseException as failure:
            partial.unlink(missing_ok=True)
            if isinstance(failure, RuntimeError) and shutil.disk_usage(path.parent).free < 2**20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from failure
            raise
        _sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        check_intact(Path(path))
        try:
            loaded = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as failure:
            raise InputError(_damaged(Path(path), " ".join(str(failure).split())[:200])) from failure
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise InputError(f"{path} is no checkpoint of a run: it has no state_dict")
        return loaded

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def link_last(path: Path) -> None:
    """Make `last.ckpt` beside `path` another name of it."""
    last = path.with_name(runs.LAST_CHECKPOINT)
    partial = _partial(last)
    partial.unlink(missing_ok=True)
    try:
        partial.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, partial)
    partial.replace(last)
    _sync_folder(path.parent)


def step_checkpoints(run_dir: Path) -> dict[int, Path]:
    """Checkpoints of a run by step, oldest first."""
    before, after = runs.STEP_CHECKPOINT.split("{step}")
    found = {
        int(number): path
        for path in run_dir.glob(runs.STEP_CHECKPOINT.format(step="*"))
        if (number := path.name.removeprefix(before).removesuffix(after)).isdigit()
    }
    return dict(sorted(found.items()))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, in words; None if every checksum holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as failure:  # zipfile raises half a dozen kinds on altered headers
        return f"it is cut short or no checkpoint ({failure})"
    return f"the checksum of its entry {broken} does not hold" if broken else None


def check_intact(path: Path) -> None:
    """Raise unless `path` is a whole checkpoint; name the newest whole one beside it."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; start the run without --ckpt_path")
    problem = damage(path)
    if problem is not None:
        raise InputError(_damaged(path, problem))


def _damaged(path: Path, problem: str) -> str:
    others = reversed(step_checkpoints(path.parent).values())
    whole = next((p for p in others if p != path and damage(p) is None), None)
    mend = (
        f"resume from the one before it: --ckpt_path {whole}"
        if whole
        else f"no whole one is left beside it: remove {path.parent} to start the run again"
    )
    return f"{path} is damaged: {problem}; {mend}"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
