"""Parquet: one document a row, its text in a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Found, decoded, missing_field
from rankbound.corpora.sources.files import FileSource
from rankbound.errors import InputError

_ROWS = 256  # at once
_PAGE_BUFFER = 1 << 20  # bytes: a row group is read page by page, however large


class ParquetFiles(FileSource):
    """One document a row; only the column of the text is read."""

    address = "a Parquet file (.parquet) or a folder of them"
    suffixes = (".parquet",)
    compressible = False

    def read(self, path: Path) -> Iterator[Found]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError as error:
            raise InputError(f"{path} needs the package pyarrow: pip install pyarrow") from error
        field = self.reading.text_field
        with path.open("rb") as self._raw:
            try:
                file = pq.ParquetFile(self._raw, buffer_size=_PAGE_BUFFER, pre_buffer=False)
                if field not in file.schema_arrow.names:
                    raise missing_field(str(path), field, file.schema_arrow.names)
                kind = file.schema_arrow.field(field).type
                if pa.types.is_dictionary(kind):
                    kind = kind.value_type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise InputError(
                        f"{path}: field {field} is of type {kind}, not text: name another --text-field"
                    )
                yield from self._rows(path, file, pa)
            except pa.ArrowInvalid as error:
                reason = str(error).splitlines()[0]
                yield InputError(
                    f"{path} is cut short or damaged ({reason}): get it again, or leave it out"
                )

    def _rows(self, path: Path, file: object, pa: object) -> Iterator[Found]:
        number = 0
        field = self.reading.text_field
        for batch in file.iter_batches(_ROWS, columns=[field], use_threads=False):  # type: ignore[attr-defined]
            for value in batch.column(0).cast(pa.large_binary()).to_pylist():  # type: ignore[attr-defined]
                number += 1
                name = f"{path} row {number}"
                try:
                    yield Document(name, "" if value is None else decoded(name, value, self.reading))
                except InputError as error:
                    yield error
