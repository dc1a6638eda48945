"""The work of `rankbound prepare`: choose the split, train the tokenizer, write shards and card.

Design decisions:
- The source is read once to choose the split, once to train the tokenizer and once a shard: memory
  holds one document and one batch, whatever the corpus.
- The unigram entropy is what a model scores that knows the token frequencies and nothing else: the
  line that every trained model must pass.
- Files are written and synced by Python's own calls: NumPy's `tofile` hides why a write failed.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from rankbound.corpora.corpus import (
    CARD,
    CONTENTS,
    SHARDS,
    TOKEN_BYTES,
    TOKENIZER,
    Card,
    Settings,
    SplitCard,
    corpus_sha256,
    file_sha256,
)
from rankbound.corpora.sources import Source, split_documents
from rankbound.corpora.split import SPLITS, choose_split
from rankbound.corpora.tokenizer import END_OF_TEXT, encode, token_lengths, train_tokenizer
from rankbound.errors import InputError


def build(folder: Path, source: Source, settings: Settings) -> None:
    """Write every file of the corpus into `folder`, the card last."""
    inputs = source.inputs()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        reader = _Reader(source, settings.document_separator, progress)
        split = choose_split(reader.texts("reading"), settings.valid_share, settings.seed)
        if split is None:
            raise InputError(f"{source.description}: empty, there is no text to split and train on")
        train = split.texts(reader.texts("training the tokenizer"), "train")
        tokenizer = _tokenizer(train, settings.vocab_size)
        _write(folder / TOKENIZER, [tokenizer.to_str(pretty=True).encode()])
        _write(folder / TOKEN_BYTES, [_npy(token_lengths(tokenizer))])
        dtype = np.dtype("uint16" if settings.vocab_size <= 1 << 16 else "uint32")
        cards: dict[str, SplitCard] = {}
        counts: dict[str, NDArray[np.int64]] = {}
        for name in SPLITS:
            texts = split.texts(reader.texts(f"encoding {name}"), name)
            cards[name], counts[name] = _write_shard(folder / SHARDS[name], tokenizer, texts, dtype)
    if source.inputs() != inputs:
        raise InputError(f"{source.description}: changed while being read, prepare it again")
    if reader.spells_end_of_text:
        print(
            f"the text spells out {END_OF_TEXT}, kept as ordinary text: if it parts documents, "
            "name it as document_separator",
            file=sys.stderr,
        )
    sha256 = {name: file_sha256(folder / name) for name in CONTENTS}
    card = Card(
        source=source.description,
        inputs=inputs,
        settings=settings,
        split_rule=split.rule,
        vocab_size=settings.vocab_size,
        dtype=dtype.name,
        splits=cards,
        unigram_entropy=_unigram_entropy(counts["train"], counts["valid"]),
        unigram_smoothing="add one to the count of each token",
        sha256=sha256,
        corpus_sha256=corpus_sha256(sha256),
    )
    _write(folder / CARD, [json.dumps(asdict(card), indent=2).encode() + b"\n"])


class _Reader:
    """Reads all documents from the start, any number of times, and shows how far it is."""

    def __init__(self, source: Source, separator: str | None, progress: Progress) -> None:
        self._source, self._separator, self._progress = source, separator, progress
        self._characters: int | None = None  # known after the first pass
        self.spells_end_of_text = False

    def texts(self, purpose: str) -> Iterator[str]:
        task = self._progress.add_task(purpose, total=self._characters)
        read = 0
        for document in split_documents(self._source, self._separator):
            self.spells_end_of_text |= END_OF_TEXT in document.text
            yield document.text
            read += len(document.text)
            self._progress.update(task, completed=read)
        self._characters = read


def _tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = train_tokenizer(texts, vocab_size)
    largest = tokenizer.get_vocab_size()
    if largest < vocab_size:
        raise InputError(
            f"vocab_size {vocab_size} is more than the text supports: its train split yields "
            f"{largest} tokens; choose at most that or give more text"
        )
    return tokenizer


def _write_shard(
    path: Path, tokenizer: Tokenizer, texts: Iterable[str], dtype: np.dtype[np.unsignedinteger]
) -> tuple[SplitCard, NDArray[np.int64]]:
    """Write one split; return its counts and how often each token occurs, shape (V,)."""
    documents = size = words = 0

    def counted() -> Iterator[str]:
        nonlocal documents, size, words
        for text in texts:
            documents += 1
            size += len(text.encode())
            words += len(text.split())
            yield text

    occurrences = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)

    def packed() -> Iterator[bytes]:
        for ids in encode(tokenizer, counted()):
            np.add(occurrences, np.bincount(ids, minlength=len(occurrences)), out=occurrences)
            yield ids.astype(dtype.newbyteorder("<")).tobytes()

    _write(path, packed())
    tokens = int(occurrences.sum())
    return SplitCard(documents, size, words, tokens, size / tokens), occurrences


def _unigram_entropy(train: NDArray[np.int64], valid: NDArray[np.int64]) -> float:
    """Cross entropy of the valid counts under the train counts plus one, both (V,), in nats."""
    nll = np.log((train + 1).sum()) - np.log(train + 1)
    return float(valid @ nll / valid.sum())


def _npy(array: NDArray[np.int32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
