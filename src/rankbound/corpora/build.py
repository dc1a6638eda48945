"""The work of `rankbound prepare`: read, split, choose words and tokenizer, encode, assemble.

Design decisions:
- Every stage leaves files that are whole or absent in a working folder. A second start with the same
  settings and inputs finds them and goes on behind them; its result is the same to the byte.
- Memory holds a document, a batch, a byte a document, and what training a tokenizer takes, which is why
  that reads no more than `tokenizer_bytes`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from rankbound.corpora.assemble import Origin, assemble
from rankbound.corpora.corpus import TOKENIZER, Settings
from rankbound.corpora.disk import give_back_memory
from rankbound.corpora.parts import Parts
from rankbound.corpora.reduction import Reduction
from rankbound.corpora.shards import LEFT_OUT, Work, default_processes, encode_parts, texts_of
from rankbound.corpora.sources import Source, read_documents
from rankbound.corpora.split import Entries, Split, choose_split, copies, hash_at
from rankbound.corpora.tokenizer import END_OF_TEXT, load_tokenizer
from rankbound.corpora.vocabulary import Vocabulary
from rankbound.errors import InputError


def build(
    folder: Path,
    work: Path,
    source: Source,
    inputs: dict[str, str],
    settings: Settings,
    processes: int | None,
    vocabulary: Vocabulary,
) -> None:
    """Write every file of the corpus into `folder`, the card last; `work` keeps what is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        parts = Parts(work, settings.seed)
        parts.fill(lambda tally: _texts(source, settings, tally, progress))
        if source.inputs() | vocabulary.inputs() != inputs:
            raise InputError(f"{source.description}: changed while being read, prepare it again")
        left_out = copies(parts) if settings.deduplicate else np.zeros(sum(map(len, parts)), dtype=np.bool_)
        split = choose_split(parts, left_out, settings.valid_share, settings.test_share)
        if split is None:
            raise InputError(
                f"{source.description}: empty, there is no text to split and train on{_why(parts.tally)}"
            )
        job = _work(work, parts, split, left_out, vocabulary, progress)
        for number, left_out_here in enumerate(_by_part(parts, left_out)):
            job.assign(number, left_out_here)
        task = progress.add_task("encoding", total=_bytes(parts))
        encode_parts(
            job, processes or default_processes(len(parts)), lambda done: progress.advance(task, done)
        )
        dropped = {name: parts.tally[name] for name in ("empty", "skipped")}
        dropped["copies"] = int(left_out.sum())
        assemble(folder, job, Origin(source.description, inputs, settings, dropped))
    if parts.tally["spells_end_of_text"]:
        print(
            f"the text spells out {END_OF_TEXT}, kept as ordinary text: if it parts documents, "
            "name it as document_separator",
            file=sys.stderr,
        )


def _texts(source: Source, settings: Settings, tally: Counter[str], progress: Progress) -> Iterator[str]:
    """The text of one document after the other; `tally` counts what was read."""
    task = progress.add_task("reading", total=None)
    for document in read_documents(source, settings.reading, tally, settings.max_documents):
        tally["spells_end_of_text"] += END_OF_TEXT in document.text
        yield document.text
        if tally["read"] % 256 == 0 and (share := source.share_read) is not None:
            progress.update(task, total=1.0, completed=share)
    progress.update(task, total=1.0, completed=1.0)


def _work(
    folder: Path,
    parts: Parts,
    split: Split,
    left_out: NDArray[np.bool_],
    vocabulary: Vocabulary,
    progress: Progress,
) -> Work:
    """What encoding needs: as it was decided before in this folder, else decided on the train split."""
    if (folder / TOKENIZER).exists():
        return Work(folder, parts, split, load_tokenizer(folder / TOKENIZER), Reduction.load(folder))

    def texts(purpose: str, most: int | None) -> Iterator[str]:
        task = progress.add_task(purpose, total=_bytes(parts))
        return _train_texts(parts, split, left_out, most, lambda done: progress.advance(task, done))

    def sample() -> Iterator[str]:
        return texts("training the tokenizer", vocabulary.settings.tokenizer_bytes)

    reduction = vocabulary.reduction(lambda: texts("counting words", None), sample)
    trained_on = sample() if reduction is None else reduction.training_texts(sample())
    job = Work(folder, parts, split, vocabulary.tokenizer(trained_on), reduction)
    job.save()
    give_back_memory()
    return job


def _train_texts(
    parts: Parts,
    split: Split,
    left_out: NDArray[np.bool_],
    most: int | None,
    tick: Callable[[int], None],
) -> Iterator[str]:
    """The train split's texts, or of one with more than `most` bytes those with the lowest hashes."""
    kept = sum(
        int(entries["bytes"][~out].sum())
        for entries, out in zip(parts, _by_part(parts, left_out), strict=True)
    )
    last = None
    if most is not None and kept > most and split.valid_to is not None:
        share = min(split.valid_share + most / kept, 1.0)
        last = np.uint64(hash_at(parts, left_out, share))
    for number, out in enumerate(_by_part(parts, left_out)):
        entries = parts.entries(number)
        places = split.numbers(entries["hash"])
        places[out if last is None else out | (entries["hash"] > last)] = LEFT_OUT
        yield from texts_of(parts, number, split, places, "train")
        tick(int(entries["bytes"].sum()))


def _by_part(parts: Iterable[Entries], left_out: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """`left_out` (documents,) cut into those of each part."""
    start = 0
    for entries in parts:
        yield left_out[start : start + len(entries)]
        start += len(entries)


def _bytes(parts: Iterable[Entries]) -> int:
    return sum(int(entries["bytes"].sum()) for entries in parts)


def _why(tally: Counter[str]) -> str:
    """What became of the documents, where there were any."""
    return f" ({tally['empty']} empty documents, {tally['skipped']} skipped)" if tally["read"] else ""
