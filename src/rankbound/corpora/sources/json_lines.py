"""JSON Lines: one object a line, its text in a field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Found, decoded, field_of
from rankbound.corpora.sources.files import FileSource
from rankbound.errors import InputError


class JsonLines(FileSource):
    """One document a line; empty lines are none."""

    address = "a JSONL file (.jsonl, .ndjson) or a folder of them"
    suffixes = (".jsonl", ".ndjson")

    def read(self, path: Path) -> Iterator[Found]:
        with self.opened(path) as file:
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                try:
                    yield self._document(f"{path} line {number}", line.rstrip(b"\r\n"))
                except InputError as error:
                    yield error

    def _document(self, name: str, line: bytes) -> Document:
        text = decoded(name, line, self.reading)
        try:
            row = json.loads(text.removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{name} is not JSON at column {error.colno} ({error.msg}): mend it, or leave such "
                "documents out with --errors skip"
            ) from error
        except RecursionError as error:
            raise InputError(f"{name} is nested too deep to be read") from error
        if not isinstance(row, dict):
            raise InputError(f"{name} is no JSON object: each line needs fields, one of them the text")
        return field_of(name, row, self.reading.text_field)
