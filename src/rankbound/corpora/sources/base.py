"""What every source of documents provides.

Design decisions:
- A source is read from its start as often as asked (count, train the tokenizer, encode), so a
  corpus never has to fit into memory; only one document at a time does.
- A source recognises its own addresses (`claims`); nothing else knows which sources exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

Errors = Literal["strict", "replace"]


@dataclass(frozen=True)
class Document:
    """A text that belongs to one split as a whole.

    - `name`: unique within its source
    """

    name: str
    text: str


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
    def __init__(self, corpus: str, errors: Errors = "strict") -> None:
        """Open the source; `errors` says what to do with bytes that are not UTF-8."""

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Return the sha256 of each input by its name, independent of where the inputs lie."""
