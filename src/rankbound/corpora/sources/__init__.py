"""Where text comes from. A source is one file in this folder, a subclass of `Source`, found by itself.

Whatever the source, `read_documents` says which documents there are: it cuts them at a separator, drops
the empty ones, and stops at or counts those that cannot be read.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rankbound.corpora.sources.base import Document, Errors, Found, Reading, Source, UnfinishedError
from rankbound.errors import InputError

__all__ = ["Document", "Errors", "Reading", "Source", "UnfinishedError", "open_source", "read_documents"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def open_source(corpus: str, reading: Reading | None = None) -> Source:
    """Open the source that `corpus` names; raises `InputError` where none claims it, or several do."""
    found = _concrete(Source)  # type: ignore[type-abstract]
    sources = sorted(found, key=lambda source: source.__name__)
    claiming = [source for source in sources if source.claims(corpus)]
    if len(claiming) > 1:
        raise InputError(
            f"corpus {corpus} could be {' or '.join(source.address for source in claiming)}: name the "
            f"files of one kind by a pattern, as in '{corpus}/**/*.txt'"
        )
    if claiming:
        return claiming[0](corpus, reading or Reading())
    known = ", ".join(source.address for source in sources)
    fault = "holds no text of a known kind" if Path(corpus).exists() else "does not exist"
    raise InputError(f"corpus {corpus} {fault}: name one of {known}")


def read_documents(
    source: Source, reading: Reading, dropped: Counter[str], limit: int | None = None
) -> Iterator[Document]:
    """Yield the documents of `source` that hold any text.

    With a separator each text is cut at it, and the pieces become the documents, each without the white
    space around it.

    Args:
        source: What to read.
        reading: How; `errors` says what to do with a document that cannot be read.
        dropped: Counts `read`, all that were come upon, and of these the `empty` and the `skipped`.
        limit: Read no more than so many; `dropped["read"]` of them are passed over as read before.

    Raises:
        InputError: A document cannot be read and is not to be skipped.
    """
    for found in islice(_pieces(source, reading.document_separator), dropped["read"], limit):
        dropped["read"] += 1
        whole = _with_whole_characters(found, reading.errors) if isinstance(found, Document) else found
        if isinstance(whole, InputError):
            if reading.errors != "skip":
                raise whole
            dropped["skipped"] += 1
        elif not whole.text or whole.text.isspace():
            dropped["empty"] += 1
        else:
            yield whole


def _pieces(source: Source, separator: str | None) -> Iterator[Found]:
    for found in source:
        if separator is None or isinstance(found, InputError):
            yield found
        else:
            texts = found.text.split(separator)
            names = [found.name] if len(texts) == 1 else [f"{found.name}#{i}" for i in range(len(texts))]
            yield from (Document(name, text.strip()) for name, text in zip(names, texts, strict=True))


def _with_whole_characters(document: Document, errors: Errors) -> Found:
    """The document, unless it holds half a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        document.text.encode()
    except UnicodeEncodeError:
        if errors != "replace":
            return InputError(
                f"{document.name} holds half a surrogate pair, which is no character: mend it, or choose "
                "--errors replace or skip"
            )
        text = document.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Document(document.name, text)
    return document


def _concrete(base: type[Source]) -> Iterator[type[Source]]:
    if not inspect.isabstract(base):
        yield base
    for subclass in base.__subclasses__():
        yield from _concrete(subclass)
