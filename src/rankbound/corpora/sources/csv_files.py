"""Comma-separated values with a header: one document a row, its text in a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Found, missing_field
from rankbound.corpora.sources.files import FileSource
from rankbound.errors import InputError

_LARGEST_CELL = 1 << 28  # characters; the library's own limit is 131,072


class CsvFiles(FileSource):
    """One document a row; cells may hold line breaks within quotes."""

    address = "a CSV file (.csv) or a folder of them"
    suffixes = (".csv",)

    def read(self, path: Path) -> Iterator[Found]:
        csv.field_size_limit(_LARGEST_CELL)
        field = self.reading.text_field
        with self.opened(path) as file:
            errors = "replace" if self.reading.errors == "replace" else "surrogateescape"
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="")
            rows = csv.reader(text, strict=True)
            header = next(rows, [])
            if header and field not in header:
                raise missing_field(str(path), field, header)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield InputError(
                        f"{path} line {rows.line_num} is not CSV ({error}): mend it, or leave such "
                        "documents out with --errors skip"
                    )
                    continue
                if row:
                    yield _document(
                        f"{path} line {rows.line_num}", dict(zip(header, row, strict=False)), field
                    )


def _document(name: str, row: dict[str, str], field: str) -> Found:
    if field not in row:
        return missing_field(name, field, row)
    try:
        row[field].encode()
    except UnicodeEncodeError as error:
        return InputError(
            f"{name} is not UTF-8 in field {field} at character {error.start}: convert it, allow such "
            "bytes with --errors replace, or leave such documents out with --errors skip"
        )
    return Document(name, row[field])
