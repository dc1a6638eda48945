"""The work of `rankbound prepare`: read, split, train the tokenizer, encode; write shards and card.

Design decisions:
- Every stage leaves files that are whole or absent in a working folder. A second start with the same
  settings and inputs finds them and goes on behind them; its result is the same to the byte.
- Memory holds a document, a batch, a byte a document, and what training a tokenizer takes, which is why
  that reads no more than `tokenizer_bytes`.
- The unigram entropy is what a model scores that knows the token frequencies and nothing else: the
  line that every trained model must pass.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from rankbound.corpora.corpus import (
    CARD,
    SHARDS,
    TOKEN_BYTES,
    TOKENIZER,
    Card,
    Settings,
    SplitCard,
    contents,
    corpus_sha256,
    file_sha256,
)
from rankbound.corpora.disk import npy, write
from rankbound.corpora.parts import Parts
from rankbound.corpora.shards import LEFT_OUT, Work, default_processes, dtype_for, encode_parts, texts_of
from rankbound.corpora.sources import Source, read_documents
from rankbound.corpora.split import SPLITS, Entries, Split, choose_split, copies, hash_at
from rankbound.corpora.tokenizer import END_OF_TEXT, load_tokenizer, token_lengths
from rankbound.errors import InputError

#: A tokenizer for the texts of the train split.
MakeTokenizer = Callable[[Iterable[str]], Tokenizer]


def build(
    folder: Path,
    work: Path,
    source: Source,
    inputs: dict[str, str],
    settings: Settings,
    processes: int | None,
    make_tokenizer: MakeTokenizer,
) -> None:
    """Write every file of the corpus into `folder`, the card last; `work` keeps what is done."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        parts = Parts(work, settings.seed)
        parts.fill(lambda tally: _texts(source, settings, tally, progress))
        if source.inputs() != inputs:
            raise InputError(f"{source.description}: changed while being read, prepare it again")
        left_out = copies(parts) if settings.deduplicate else np.zeros(sum(map(len, parts)), dtype=np.bool_)
        split = choose_split(parts, left_out, settings.valid_share, settings.test_share)
        if split is None:
            raise InputError(
                f"{source.description}: empty, there is no text to split and train on{_why(parts.tally)}"
            )
        tokenizer = _tokenizer(work, parts, split, left_out, settings, make_tokenizer, progress)
        job = Work(work, parts, split, tokenizer)
        job.save()
        for number, left_out_here in enumerate(_by_part(parts, left_out)):
            job.assign(number, left_out_here)
        task = progress.add_task("encoding", total=_bytes(parts))
        encode_parts(
            job, processes or default_processes(len(parts)), lambda done: progress.advance(task, done)
        )
        _assemble(folder, job)
    if parts.tally["spells_end_of_text"]:
        print(
            f"the text spells out {END_OF_TEXT}, kept as ordinary text: if it parts documents, "
            "name it as document_separator",
            file=sys.stderr,
        )
    dropped = {name: parts.tally[name] for name in ("empty", "skipped")}
    _write_card(
        folder, job, source.description, inputs, settings, {**dropped, "copies": int(left_out.sum())}
    )


def _texts(source: Source, settings: Settings, tally: Counter[str], progress: Progress) -> Iterator[str]:
    """The text of one document after the other; `tally` counts what was read."""
    task = progress.add_task("reading", total=None)
    for document in read_documents(source, settings.reading, tally, settings.max_documents):
        tally["spells_end_of_text"] += END_OF_TEXT in document.text
        yield document.text
        if not progress.disable and (share := source.share_read) is not None:
            progress.update(task, total=1.0, completed=share)
    progress.update(task, total=1.0, completed=1.0)


def _tokenizer(
    work: Path,
    parts: Parts,
    split: Split,
    left_out: NDArray[np.bool_],
    settings: Settings,
    make: MakeTokenizer,
    progress: Progress,
) -> Tokenizer:
    """The tokenizer of this work, made if it is not there yet."""
    if (work / TOKENIZER).exists():
        return load_tokenizer(work / TOKENIZER)
    task = progress.add_task("training the tokenizer", total=_bytes(parts))
    return make(_sample(parts, split, left_out, settings, lambda done: progress.advance(task, done)))


def _sample(
    parts: Parts,
    split: Split,
    left_out: NDArray[np.bool_],
    settings: Settings,
    tick: Callable[[int], None],
) -> Iterator[str]:
    """The train split's texts, or of a large one those with the lowest hashes."""
    kept = sum(
        int(entries["bytes"][~out].sum())
        for entries, out in zip(parts, _by_part(parts, left_out), strict=True)
    )
    last = None
    if kept > settings.tokenizer_bytes and split.valid_to is not None:
        share = min(settings.valid_share + settings.tokenizer_bytes / kept, 1.0)
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


def _assemble(folder: Path, job: Work) -> None:
    write(folder / TOKENIZER, [job.tokenizer.to_str(pretty=True).encode()])
    write(folder / TOKEN_BYTES, [npy(token_lengths(job.tokenizer))])
    for name in job.split.names:
        write(folder / SHARDS[name], job.shard(name))


def _write_card(
    folder: Path,
    job: Work,
    description: str,
    inputs: dict[str, str],
    settings: Settings,
    dropped: dict[str, int],
) -> None:
    occurrences = job.occurrences()
    splits: dict[str, SplitCard] = {}
    for name in job.split.names:
        counts, tokens = job.counts(name), int(occurrences[SPLITS.index(name)].sum())
        splits[name] = SplitCard(**counts, tokens=tokens, bytes_per_token=counts["bytes"] / tokens)
    sha256 = {name: file_sha256(folder / name) for name in contents(job.split.names)}
    vocab_size = job.tokenizer.get_vocab_size()
    card = Card(
        source=description,
        inputs=inputs,
        settings=settings,
        split_rule=job.split.rule,
        dropped=dropped,
        vocab_size=vocab_size,
        dtype=dtype_for(vocab_size).name,
        splits=splits,
        unigram_entropy=_unigram_entropy(occurrences[0], occurrences[1]),
        unigram_smoothing="add one to the count of each token",
        sha256=sha256,
        corpus_sha256=corpus_sha256(sha256),
    )
    write(folder / CARD, [json.dumps(asdict(card), indent=2).encode() + b"\n"])


def _unigram_entropy(train: NDArray[np.int64], valid: NDArray[np.int64]) -> float:
    """Cross entropy of the valid counts under the train counts plus one, both (V,), in nats."""
    nll = np.log((train + 1).sum()) - np.log(train + 1)
    return float(valid @ nll / valid.sum())
