"""The tensors of a checkpoint folder, one after another, and its config.

Design decisions:
- safetensors first, one file or several with an index; else PyTorch's own files, read with `weights_only`,
  so that nothing in a checkpoint is ever run.
- Files are mapped into memory: what is held is the tensor at hand.
- All files are looked for before the first is read, and a file that was cut short is known by its header.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankbound.errors import InputError

CONFIG = "config.json"
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `InputError` where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise InputError(f"cannot read {path}: {failure.strerror}") from failure
    except ValueError as failure:
        raise InputError(f"{path} is not JSON: {failure}") from failure
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return found


def weight_files(folder: Path) -> list[Path]:
    """Every file of weights, whole set or `InputError`; safetensors where there are any."""
    for name in (SAFETENSORS, PICKLED):
        index = folder / (name + INDEX)
        if index.is_file():
            return _listed(index)
        if (folder / name).is_file():
            return [folder / name]
    raise InputError(
        f"{folder} holds no weights: neither {SAFETENSORS} nor {PICKLED}, nor an index of either"
    )


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of all files, in the files' dtype.

    Raises:
        InputError: no weights, a file that is missing, cut short or damaged.
    """
    for path in weight_files(folder):
        yield from _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)


def _listed(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{index} lists no files of its own folder")
    names = sorted(set(names))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index.parent} lacks {len(missing)} of {len(names)} files of weights, such as {missing[0]}: "
            "download it again"
        )
    return [index.parent / name for name in names]


def _of_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                yield name, file.get_tensor(name)
    except SafetensorError as failure:
        raise InputError(
            f"{path} is cut short or no safetensors file ({failure}): download or export it again"
        ) from failure


def _of_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols that it may not read
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as failure:
        raise InputError(
            f"{path} is no file of weights alone, and nothing else is read: convert it to safetensors"
        ) from failure
    except (RuntimeError, EOFError, ValueError) as failure:
        why = " ".join(str(failure).split())[:120]
        raise InputError(f"{path} is cut short or no PyTorch file ({why}): download it again") from failure
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path} is no dictionary of tensors")
    yield from loaded.items()
