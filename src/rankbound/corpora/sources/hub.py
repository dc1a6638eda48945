"""Datasets of the Hugging Face Hub, streamed: nothing of them is kept on disk.

Offline, what `datasets` has cached is read instead; a dataset's folder of files, downloaded by whatever
means, is read by the sources of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankbound.corpora.sources.base import Found, Reading, Source, UnfinishedError, field_of
from rankbound.errors import InputError

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_A_FILE = re.compile(r".*\.(txt|md|jsonl|ndjson|csv|parquet|gz|zst)", re.IGNORECASE)


class HubDataset(Source):
    """One document a row of one split; the commit stands for the inputs' hash."""

    address = "a Hugging Face dataset as owner/name"

    @classmethod
    def claims(cls, corpus: str) -> bool:
        is_id = _ID.fullmatch(corpus) and not _OF_A_FILE.fullmatch(corpus)
        return bool(is_id) and not Path(corpus).exists()

    def __init__(self, corpus: str, reading: Reading) -> None:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise InputError(
                f"corpus {corpus} is no file here; as a Hugging Face dataset it needs the package "
                "datasets: pip install datasets"
            ) from error
        self._id, self._reading, self._read_rows = corpus, reading, 0
        self.name = corpus.rpartition("/")[2]
        # Offline it says at length, in the log, what the error below or the data card says.
        datasets.logging.set_verbosity_error()
        try:
            self._builder = datasets.load_dataset_builder(corpus, reading.subset)
        except datasets.exceptions.DatasetNotFoundError as error:
            raise InputError(
                f"corpus {corpus} is no file here, nor a dataset on Hugging Face that can be read without "
                "logging in: check the name"
            ) from error
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise InputError(f"corpus {corpus}: {_line(error)}: choose one by --subset") from error
        splits = self._builder.info.splits or {}
        if splits and reading.split not in splits:
            raise InputError(
                f"corpus {corpus} has no split {reading.split}; it has {', '.join(splits)}: name one by "
                "--split"
            )
        self._rows = splits[reading.split].num_examples if splits else None
        subset = self._builder.config.name
        self.description = f"Hugging Face dataset {corpus}, {subset}, {reading.split} split"

    def __iter__(self) -> Iterator[Found]:
        self._read_rows = 0
        try:
            for row in self._streamed():
                self._read_rows += 1
                try:
                    yield field_of(f"{self._id} row {self._read_rows}", row, self._reading.text_field)
                except InputError as error:
                    yield error
        except OSError as error:
            raise self._unreachable(error) from error

    @property
    def share_read(self) -> float | None:
        return self._read_rows / self._rows if self._rows else None

    def inputs(self) -> dict[str, str]:
        return {self._id: str(self._builder.hash)}

    def _streamed(self) -> Iterator[dict[str, Any]]:
        rows = self._builder.as_streaming_dataset(split=self._reading.split)
        field = self._reading.text_field
        if rows.column_names and field in rows.column_names:  # else the first row says what there is
            rows = rows.select_columns([field])
        yield from rows

    def _unreachable(self, error: Exception) -> UnfinishedError:
        return UnfinishedError(
            f"corpus {self._id} is no file here, and Hugging Face cannot be reached ({_line(error)}): go "
            f"online, or fetch it elsewhere with 'hf download --repo-type dataset {self._id} --local-dir "
            "FOLDER' and name that folder as the corpus"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
