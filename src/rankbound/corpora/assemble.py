"""Parts of tokens to the files of a corpus, and what its card says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankbound.corpora.corpus import (
    CARD,
    SHARDS,
    TOKEN_BYTES,
    TOKENIZER,
    Card,
    Settings,
    SplitCard,
    WordListCard,
    contents,
    corpus_sha256,
    file_sha256,
)
from rankbound.corpora.disk import npy, write
from rankbound.corpora.shards import Work, dtype_for
from rankbound.corpora.spans import SpanCounts
from rankbound.corpora.split import SPLITS, SplitName
from rankbound.corpora.statistics import bigram_entropy, unigram_entropy, word_splits
from rankbound.corpora.tokenizer import UNKNOWN, UNKNOWN_ID, token_lengths
from rankbound.corpora.top_tokens import TopTokens, top_tokens
from rankbound.corpora.word_list import PLACEHOLDERS
from rankbound.errors import InputError

_BYTES_ERROR = 1e-3  # a tokenizer from elsewhere may put a space before each document


@dataclass(frozen=True)
class Origin:
    """Where a corpus comes from, for its card."""

    description: str
    inputs: dict[str, str]
    settings: Settings
    dropped: dict[str, int]


def assemble(folder: Path, job: Work, origin: Origin) -> None:
    """Write the tokenizer, the shards and the card, in this order.

    Raises:
        InputError: A split of which a word list kept nothing, or fewer tokens than the top K.
    """
    occurrences, lengths = job.occurrences(), token_lengths(job.tokenizer)
    for name in job.split.names:
        if not occurrences[SPLITS.index(name)].any():
            raise InputError(
                f"no span of the {name} split is kept: give more text or a larger {name}_share"
            )
    top, unknown = None, job.tokenizer.token_to_id(UNKNOWN)
    if origin.settings.tokens_only_top is not None:
        top = top_tokens(occurrences[0], origin.settings.tokens_only_top, unknown)
        occurrences, lengths, unknown = _summed(occurrences, top), top.lengths(lengths), UNKNOWN_ID
    splits: dict[str, SplitCard] = {
        name: _split_card(job, name, occurrences[SPLITS.index(name)], unknown) for name in job.split.names
    }
    bytes_known = all(
        abs(int(row @ lengths) - split.bytes) <= _BYTES_ERROR * split.bytes
        for row, split in zip(occurrences, splits.values(), strict=False)
    )
    write(folder / TOKENIZER, [job.tokenizer.to_str(pretty=True).encode()])
    write(folder / TOKEN_BYTES, [npy(lengths if bytes_known else np.zeros_like(lengths))])
    for name in job.split.names:
        write(folder / SHARDS[name], _shard(job, name, top))
    sha256 = {name: file_sha256(folder / name) for name in contents(job.split.names)}
    dtype = dtype_for(occurrences.shape[1])
    train, valid = (np.memmap(folder / SHARDS[name], dtype, mode="r") for name in SPLITS[:2])
    bigram = bigram_entropy(train, valid, occurrences[0])
    card = Card(
        source=origin.description,
        inputs=origin.inputs,
        settings=origin.settings,
        split_rule=job.split.rule,
        dropped=origin.dropped,
        vocab_size=occurrences.shape[1],
        dtype=dtype.name,
        splits=splits,
        unigram_entropy=unigram_entropy(occurrences[0], occurrences[1]),
        unigram_smoothing="add one to the count of each token",
        bigram_entropy=bigram.nats,
        bigram_smoothing=bigram.smoothing,
        token_types=int((occurrences[0] > 0).sum()),
        bytes_known=bytes_known,
        word_list=_word_list_card(job),
        kept_tokens=None if top is None else top.kept.tolist(),
        sha256=sha256,
        corpus_sha256=corpus_sha256(sha256),
    )
    write(folder / CARD, [json.dumps(asdict(card), indent=2).encode() + b"\n"])


def _split_card(job: Work, name: SplitName, row: NDArray[np.int64], unknown: int | None) -> SplitCard:
    counts, tokens = job.counts(name), int(row.sum())
    return SplitCard(
        documents=counts["documents"],
        bytes=counts["bytes"],
        words=counts["words"],
        tokens=tokens,
        bytes_per_token=counts["bytes"] / tokens,
        words_per_token=counts["words"] / tokens,
        unknown=0 if unknown is None else int(row[unknown]),
    )


def _word_list_card(job: Work) -> WordListCard | None:
    if job.reduction is None:
        return None
    listed = job.reduction.keep.listed - PLACEHOLDERS
    counts: dict[SplitName, dict[str, float]] = {}
    for name in job.split.names:
        found = job.counts(name)
        seen = SpanCounts(*(found[f"list_{key}"] for key in ("words", "listed", "kept", "spans")))
        counts[name] = {**asdict(seen), "coverage": seen.coverage, "share_kept": seen.share_kept}
    return WordListCard(len(listed), counts, word_splits(job.tokenizer, listed))


def _summed(occurrences: NDArray[np.int64], top: TopTokens) -> NDArray[np.int64]:
    """Counts of the tokenizer's ids, (splits, V), to those of the ids kept, (splits, size)."""
    new = top.renumber(np.arange(occurrences.shape[1], dtype=np.uint32))
    rows = [np.bincount(new, weights=row, minlength=top.size) for row in occurrences]
    return np.stack(rows).astype(np.int64)


def _shard(job: Work, name: SplitName, top: TopTokens | None) -> Iterator[bytes]:
    for ids in job.shard(name):
        if top is None:
            yield ids.tobytes()
        else:
            yield top.renumber(ids).astype(dtype_for(top.size)).tobytes()
