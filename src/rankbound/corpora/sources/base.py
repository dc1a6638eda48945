"""What every source of documents provides.

Design decisions:
- A source is read from its start as often as asked; one document at a time is in memory, whatever the
  corpus.
- A document that cannot be read is yielded as the `InputError` that says why, so that whether to stop
  or to count it is decided in one place (`read_documents`), not in each source.
- A source recognises its own addresses (`claims`); nothing else knows which sources exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from rankbound.errors import InputError

Errors = Literal["strict", "replace", "skip"]


@dataclass(frozen=True)
class Document:
    """A text that belongs to one split as a whole.

    - `name`: unique within its source
    """

    name: str
    text: str


Found = Document | InputError


class UnfinishedError(InputError):
    """What was done so far stays good: the same command goes on another time."""


@dataclass(frozen=True)
class Reading:
    """How to read a source; the docstring of `prepare` explains the settings."""

    text_field: str = "text"
    subset: str | None = None
    split: str = "train"
    document_separator: str | None = None
    errors: Errors = "strict"

    def __post_init__(self) -> None:
        if self.document_separator == "":
            raise InputError("document_separator is empty: leave it out or give at least one character")


class Source(ABC):
    """Documents at an address, in a fixed order, iterable any number of times.

    - `address`: how a user names such a source, as a noun phrase for error messages
    - `name`: short, fit for a folder name
    - `description`: where the text comes from, for the data card
    """

    address: ClassVar[str]
    name: str
    description: str

    @classmethod
    @abstractmethod
    def claims(cls, corpus: str) -> bool:
        """Whether `corpus` is an address of this source."""

    @abstractmethod
    def __init__(self, corpus: str, reading: Reading) -> None:
        """Open the source."""

    @abstractmethod
    def __iter__(self) -> Iterator[Found]: ...

    @property
    def share_read(self) -> float | None:
        """How much of the pass at hand is done, from 0 to 1; None where it is not known."""
        return None

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Return a hash of each input by its name, independent of where the inputs lie."""


def decoded(name: str, line: bytes, reading: Reading) -> str:
    """`line` as text; raises `InputError` where it is not UTF-8 and such bytes are not replaced."""
    try:
        return line.decode(errors="replace" if reading.errors == "replace" else "strict")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error.start, error.reason) from error


def not_utf8(name: str, byte: int, reason: str) -> InputError:
    """The error of bytes that are not UTF-8, `byte` counted from 0 in what `name` names."""
    return InputError(
        f"{name} is not UTF-8 at byte {byte} ({reason}): convert it, allow such bytes with "
        "--errors replace, or leave such documents out with --errors skip"
    )


def field_of(name: str, row: dict[str, object], field: str) -> Document:
    """The document in a field of a row; nothing in it is no text. Raises `InputError`."""
    if field not in row:
        raise missing_field(name, field, row)
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise InputError(
            f"{name}: field {field} is of type {type(text).__name__}, not text: name another --text-field"
        )
    return Document(name, text or "")


def missing_field(name: str, field: str, found: object) -> InputError:
    """The error of a field that is not there; `found` iterates over those that are."""
    names = ", ".join(map(str, found)) or "none"  # type: ignore[call-overload]
    return InputError(f"{name} has no field {field}; found: {names}: name one with --text-field")
