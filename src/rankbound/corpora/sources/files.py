"""Files of one kind: a file, every one in a folder and the folders below it, or those of a pattern.

Design decisions:
- Compressed files are read as they are and never unpacked on disk. `gzip` and `pyarrow` both say where a
  file ends too early; `zstandard` does not.
- A folder's README.md describes it and is no text; named itself, it is.
- Files are sorted by path: a listing's order differs between machines.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

from rankbound.corpora.sources.base import Found, Reading, Source
from rankbound.errors import InputError

COMPRESSED = (".gz", ".zst")


class FileSource(Source):
    """A source of files with certain endings; a subclass says what one file holds.

    - `suffixes`: endings of its files, lower case
    - `compressible`: whether it also reads them compressed
    """

    suffixes: ClassVar[tuple[str, ...]]
    compressible: ClassVar[bool] = True

    @classmethod
    def claims(cls, corpus: str) -> bool:
        return any(cls._reads(path) for path in _files(corpus))

    def __init__(self, corpus: str, reading: Reading) -> None:
        self.files = [path for path in _files(corpus) if self._reads(path)]
        self.reading = reading
        self._root = _root(corpus)
        self.name = _stem(self._root / corpus if Path(corpus).is_file() else self._root)
        self.description = f"{self.address.split(' ')[1]} files at {corpus}"
        self._sizes = [path.stat().st_size for path in self.files]
        self._before = 0
        self._raw: BinaryIO | None = None

    def __iter__(self) -> Iterator[Found]:
        self._before = 0
        for path, size in zip(self.files, self._sizes, strict=True):
            try:
                yield from self.read(path)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield _damaged(path, error)
            except OSError as error:
                if error.errno is not None:
                    raise InputError(f"cannot read {path}: {error.strerror}") from error
                yield _damaged(path, error)  # pyarrow's
            self._before += size

    @abstractmethod
    def read(self, path: Path) -> Iterator[Found]:
        """Yield the documents of one file; damage to the file as a whole may be raised."""

    @property
    def share_read(self) -> float | None:
        inside = self._raw.tell() if self._raw is not None and not self._raw.closed else 0
        return (self._before + inside) / max(sum(self._sizes), 1)

    def inputs(self) -> dict[str, str]:
        hashes = {}
        for path in self.files:
            try:
                with path.open("rb") as file:
                    hashes[self.named(path)] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror}") from error
        return hashes

    def named(self, path: Path) -> str:
        """The name of a file within the source, wherever that lies."""
        return path.relative_to(self._root).as_posix()

    @contextmanager
    def opened(self, path: Path) -> Iterator[BinaryIO]:
        """Open a file, decompressed."""
        with path.open("rb") as self._raw:
            if path.suffix.lower() == ".gz":
                with gzip.open(self._raw) as file:
                    yield cast(BinaryIO, file)
            elif path.suffix.lower() == ".zst":
                import pyarrow as pa

                with (
                    pa.CompressedInputStream(self._raw, "zstd") as stream,
                    io.BufferedReader(stream) as file,
                ):
                    yield cast(BinaryIO, file)
            else:
                yield self._raw

    @classmethod
    def _reads(cls, path: Path) -> bool:
        name = path.name.lower()
        if cls.compressible:
            name = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
        return name.endswith(cls.suffixes)


def _files(corpus: str) -> list[Path]:
    """All files at an address, whatever they hold, sorted."""
    path = Path(corpus)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        return sorted(p for p in found if p.name != "README.md" and p.is_file())
    return sorted(p for p in map(Path, glob.glob(corpus, recursive=True)) if p.is_file())  # noqa: PTH207


def _root(corpus: str) -> Path:
    """The folder that names are relative to: the one named, or the last before a pattern begins."""
    path = Path(corpus)
    if path.is_dir():
        return path
    while glob.has_magic(str(path)) or path.is_file():
        path = path.parent
    return path


def _stem(path: Path) -> str:
    name = path.resolve().name
    return name.split(".")[0] or name if path.is_file() else name


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is cut short or damaged ({error}): get it again, or leave it out")
