"""Rows of a benchmark: from JSON Lines on the disk, or from a dataset of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankbound.errors import InputError

SUFFIXES = (".jsonl", ".json", ".ndjson")
Row = Mapping[str, Any]


def files(source: str, what: str) -> list[Path]:
    """The JSON Lines files at a path, in order; empty where it is to be a dataset's id.

    Raises:
        InputError: neither a path with such files nor an id of the form owner/name.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not found:
            raise InputError(f"{what} {source} holds no {' or '.join(SUFFIXES)} file")
        return found
    if path.is_file():
        return [path]
    if source.count("/") != 1 or path.suffix in SUFFIXES:
        raise InputError(f"{what} {source} is no file or folder here, nor a Hugging Face id owner/name")
    return []


def local_rows(file: Path, fields: tuple[str, ...]) -> list[Row]:
    """The rows of a JSON Lines file, each with text in all `fields`; `InputError` names a line without."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file} line {number} is not JSON: {error}") from error
        rows.append(_checked(row, fields, f"{file} line {number}"))
    if not rows:
        raise InputError(f"{file} holds no rows")
    return rows


def hub_subsets(name: str, what: str) -> list[str]:
    """The subsets of a dataset of the hub."""
    import datasets

    with _Reachable(name, what):
        return list(datasets.get_dataset_config_names(name))


def hub_rows(name: str, subset: str | None, fields: tuple[str, ...], what: str) -> Iterator[Row]:
    """The rows of a dataset of the hub: of its test split, or of the only one it has."""
    import datasets

    with _Reachable(name, what):
        splits = datasets.get_dataset_split_names(name, subset)
        split = "test" if "test" in splits else splits[0]
        for number, row in enumerate(datasets.load_dataset(name, subset, split=split), 1):
            yield _checked(row, fields, f"{what} {name} row {number}")


class _Reachable:
    """What `datasets` says of a dataset that it cannot read, in one line."""

    def __init__(self, name: str, what: str) -> None:
        self._name, self._what = name, what

    def __enter__(self) -> None:
        import datasets

        datasets.logging.set_verbosity_error()
        datasets.disable_progress_bars()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import datasets

        if isinstance(error, InputError):
            return
        if isinstance(error, datasets.exceptions.DatasetsError | OSError | ValueError):
            why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise InputError(
                f"{self._what} {self._name} is no file here and cannot be read from Hugging Face ({why}): "
                "go online, check the name, or give its rows as a .jsonl file"
            ) from error


def _checked(row: Any, fields: tuple[str, ...], where: str) -> Row:
    for field in fields:
        if not isinstance(row, Mapping) or not isinstance(row.get(field), str):
            raise InputError(f"{where} has no text in the field {field}")
        try:
            row[field].encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} holds half a surrogate pair, which is no character") from error
    return dict(row)
