"""Plain text: a `.txt` file, or every one in a folder and the folders below it, sorted by path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Errors, Source
from rankbound.errors import InputError


class TextFiles(Source):
    """One document a file: UTF-8, line ends as they are, a byte order mark dropped."""

    address = "a .txt file or a folder of them"

    @classmethod
    def claims(cls, corpus: str) -> bool:
        return bool(_text_files(Path(corpus)))

    def __init__(self, corpus: str, errors: Errors = "strict") -> None:
        path = Path(corpus)
        self.name = path.resolve().stem if path.is_file() else path.resolve().name
        self.description = f"text files at {corpus}"
        self._errors = errors
        self._root = path if path.is_dir() else path.parent
        self._files = _text_files(path)

    def __iter__(self) -> Iterator[Document]:
        for path in self._files:
            yield Document(self._name(path), self._decode(path))

    def inputs(self) -> dict[str, str]:
        return {self._name(path): hashlib.sha256(_read(path)).hexdigest() for path in self._files}

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _decode(self, path: Path) -> str:
        try:
            return _read(path).decode(errors=self._errors).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8 at byte {error.start} ({error.reason}): convert it, or allow "
                "such bytes with --errors replace"
            ) from error


def _text_files(path: Path) -> list[Path]:
    candidates = path.rglob("*") if path.is_dir() else [path]
    return sorted(p for p in candidates if p.suffix.lower() == ".txt" and p.is_file())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
