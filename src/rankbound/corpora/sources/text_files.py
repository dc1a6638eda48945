"""Plain text: one document a file, or one a piece where a separator is given.

Design decisions:
- A file is read and decoded block by block: with a separator a file may be of any size.
- A longer text than `_WHOLE` without a separator is cut at line breaks into documents of about `_PART`,
  for memory's sake; nothing else can be held out of one that is larger than memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Found, not_utf8
from rankbound.corpora.sources.files import FileSource

_BLOCK = 1 << 20  # bytes
_WHOLE, _PART = 1 << 24, 1 << 20  # characters


class TextFiles(FileSource):
    """UTF-8, line ends as they are, a byte order mark dropped."""

    address = "a text file (.txt, .md) or a folder of them"
    suffixes = (".txt", ".md")

    def read(self, path: Path) -> Iterator[Found]:
        name, separator = self.named(path), self.reading.document_separator
        pieces = _parts(self._blocks(path)) if separator is None else _cut(self._blocks(path), separator)
        for number, text in enumerate(pieces):
            piece = name if separator is None and number == 0 else f"{name}#{number}"
            if self.reading.errors == "skip" and (at := _first_broken(text)) is not None:
                yield not_utf8(f"{path}, in its document {number + 1},", at, "invalid bytes")
            else:
                yield Document(piece, text)

    def _blocks(self, path: Path) -> Iterator[str]:
        """The text in blocks; one that belongs to no document follows bytes that end too early."""
        errors = {"strict": "strict", "replace": "replace", "skip": "surrogateescape"}[self.reading.errors]
        position, rest = 0, b""
        with self.opened(path) as file:
            while True:
                block = file.read(_BLOCK)
                data = rest + block
                try:
                    text, used = codecs.utf_8_decode(data, errors, not block)
                except UnicodeDecodeError as error:
                    raise not_utf8(str(path), position + error.start, error.reason) from error
                yield text if position else text.removeprefix("\ufeff")
                position, rest = position + used, data[used:]
                if not block:
                    return


def _cut(blocks: Iterator[str], separator: str) -> Iterator[str]:
    """The texts between separators, which may lie across blocks."""
    before: list[str] = []
    edge = ""  # as much of the end as a separator across the border may begin in
    for block in blocks:
        *whole, last = (edge + block).split(separator)
        if whole:
            yield "".join([*before, whole[0]])
            yield from whole[1:]
            before = []
        border = max(len(last) - len(separator) + 1, 0)
        before.append(last[:border])
        edge = last[border:]
    yield "".join([*before, edge])


def _parts(blocks: Iterator[str]) -> Iterator[str]:
    """The text whole, or in parts where it is long."""
    pending: list[str] = []
    size, least = 0, _WHOLE
    for block in blocks:
        pending.append(block)
        size += len(block)
        if size > least:
            text, start, least = "".join(pending), 0, _PART
            while len(text) - start > 2 * _PART:
                end = text.rfind("\n", start, start + _PART) + 1 or start + _PART
                yield text[start:end]
                start = end
            pending, size = [text[start:]], len(text) - start
    yield "".join(pending)


def _first_broken(text: str) -> int | None:
    """Byte of the first surrogate, None where there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return len(text[: error.start].encode(errors="surrogateescape"))
    return None
