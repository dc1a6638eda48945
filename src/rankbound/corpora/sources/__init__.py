"""Sources of documents: adding one is adding a module beside this file.

Every module here is imported, and every `Source` it defines is asked whether it claims the address
that the user gave. A plain name (`sotu`) goes before a path; `./sotu` is always a path.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from rankbound.corpora.sources.base import Document, Errors, Source
from rankbound.errors import InputError

__all__ = ["Document", "Errors", "Source", "open_source", "split_documents"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def open_source(corpus: str, errors: Errors = "strict") -> Source:
    """Open the source that `corpus` names; raises `InputError` where none claims it."""
    sources = sorted(Source.__subclasses__(), key=lambda source: source.__name__)
    for source in sources:
        if source.claims(corpus):
            return source(corpus, errors)
    known = ", ".join(source.address for source in sources)
    fault = "holds no text of a known kind" if Path(corpus).exists() else "does not exist"
    raise InputError(f"corpus {corpus} {fault}: name one of {known}")


def split_documents(source: Source, separator: str | None) -> Iterator[Document]:
    """Yield the documents that hold any text.

    With a separator each text is cut at it, and the pieces become the documents, each without the
    white space around it.
    """
    for document in source:
        if separator is None:
            pieces = [document]
        else:
            texts = document.text.split(separator)
            pieces = [Document(f"{document.name}#{i}", t.strip()) for i, t in enumerate(texts)]
        yield from (piece for piece in pieces if piece.text and not piece.text.isspace())
