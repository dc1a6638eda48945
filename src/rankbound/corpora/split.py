"""Train, valid and test: which document goes where.

Design decisions:
- Documents are ordered by a hash of (seed, text). The first of them are valid, the last are test, as many
  as come closest to the share of bytes asked for. So the order of the files does not matter; a corpus that
  grows moves only documents next to a border; a test split takes none from valid; and copies of a text
  have one hash, so they never end on both sides.
- What is known of a document is its hash and its size, 16 bytes on disk. They are looked at in ranges of
  the hash, each sorted in memory: that takes a byte a document and 200 MB, whatever the corpus.
- Two of n different texts share a hash of 64 bits with probability n^2 / 2^65: 3 in a million for ten
  million texts. One of them would be dropped as a copy.
- A corpus of a single text is cut near its end instead, at a line break if one is close.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankbound.errors import InputError

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")

#: What is known of a document: hash of (seed, text), and bytes of its text in UTF-8.
ENTRY = np.dtype([("hash", "<u8"), ("bytes", "<u8")])
Entries = NDArray[np.void]

_AT_ONCE = 1 << 22  # documents, at some 48 bytes each while they are sorted


@dataclass(frozen=True)
class Split:
    """A rule that assigns documents to splits, made by `choose_split`.

    - `valid_to`: largest hash in valid; None where the one text is cut
    - `test_from`: smallest hash in test; None where there is no test split
    """

    valid_share: float
    test_share: float
    valid_to: int | None
    test_from: int | None

    @property
    def names(self) -> tuple[SplitName, ...]:
        return SPLITS if self.test_share else SPLITS[:2]

    @property
    def rule(self) -> str:
        """The rule in words, for the data card."""
        if self.valid_to is None:
            return "one text, cut near its end"
        return "whole documents, by a hash of seed and text"

    def numbers(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The split of each document as its place in `SPLITS`, by hashes of the same shape."""
        numbers = np.zeros(hashes.shape, dtype=np.uint8)
        if self.valid_to is not None:
            numbers[hashes <= np.uint64(self.valid_to)] = SPLITS.index("valid")
        if self.test_from is not None:
            numbers[hashes >= np.uint64(self.test_from)] = SPLITS.index("test")
        return numbers

    def cut(self, text: str) -> dict[SplitName, str]:
        """The pieces of the one text, in the order train, valid, test."""
        if len(text) < len(self.names):
            raise InputError(f"the text has {len(text)} characters, too few for {len(self.names)} splits")
        pieces: dict[SplitName, str] = {}
        rest = text
        for name, share in (("test", self.test_share), ("valid", self.valid_share)):
            if share:
                least = len(self.names) - len(pieces) - 1  # characters, for the splits before
                at = max(_cut(rest, share * len(text) / len(rest)), least)
                rest, pieces[name] = rest[:at], rest[at:]  # type: ignore[index]
        return {"train": rest, **pieces}


def text_hash(text: bytes, seed: int) -> int:
    """The hash, of 64 bits, that decides where a text in UTF-8 goes."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest())


def copies(index: Iterable[Entries]) -> NDArray[np.bool_]:
    """Which documents have the hash of an earlier one, shape (documents,).

    `index` is iterated several times.
    """
    found = np.zeros(sum(map(len, index)), dtype=np.bool_)
    for _, hashes, places in _ranges(index, np.zeros_like(found)):
        found[places[1:][hashes[1:] == hashes[:-1]]] = True
    return found


def choose_split(
    index: Iterable[Entries],
    left_out: NDArray[np.bool_],
    valid_share: float,
    test_share: float = 0.0,
) -> Split | None:
    """Choose the rule for the documents of `index` that are not left out; None where there are none.

    Raises:
        InputError: Three splits of two texts.
    """
    distinct = sum(int(_lasts(hashes).sum()) for _, hashes, _ in _ranges(index, left_out))
    if distinct == 0:
        return None
    if distinct == 1:
        return Split(valid_share, test_share, None, None)
    if not test_share:
        return Split(valid_share, 0.0, hash_at(index, left_out, valid_share, 0, distinct - 1), None)
    if distinct == 2:
        raise InputError("two different documents cannot make three splits: leave test_share out")
    valid_to = hash_at(index, left_out, valid_share, 0, distinct - 2)
    in_valid = sum(int((_lasts(h) & (h <= valid_to)).sum()) for _, h, _ in _ranges(index, left_out))
    train_to = hash_at(index, left_out, 1 - test_share, in_valid, distinct - 1)
    return Split(valid_share, test_share, valid_to, train_to + 1)


def hash_at(
    index: Iterable[Entries],
    left_out: NDArray[np.bool_],
    share: float,
    first: int = 0,
    end: int | None = None,
) -> int:
    """The hash up to which documents hold the share of all bytes that is nearest to `share`.

    Only the `first` to the `end` (exclusive) of the different hashes, in their order, are candidates.
    """
    total = sum(int(sizes.sum()) for sizes, _, _ in _ranges(index, left_out))
    best, nearest = np.inf, 0
    before = rank = 0  # bytes and different hashes of the ranges before
    for sizes, hashes, _ in _ranges(index, left_out):
        lasts = _lasts(hashes)
        held = (before + np.cumsum(sizes, dtype=np.int64))[lasts]
        candidates = slice(max(first - rank, 0), None if end is None else max(end - rank, 0))
        distance = np.abs(held[candidates] / total - share)
        if distance.size and distance.min() < best:
            best = distance.min()
            nearest = int(hashes[lasts][candidates][distance.argmin()])
        before, rank = before + int(sizes.sum()), rank + len(held)
    return nearest


def _ranges(
    index: Iterable[Entries], left_out: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]]:
    """Sizes, hashes and places of the documents, sorted by hash, a range of hashes at a time."""
    ranges = -(-len(left_out) // _AT_ONCE)
    for number in range(ranges):
        sizes, hashes, places, start = [], [], [], 0
        for part in index:
            inside = (part["hash"] >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32) == number
            chosen = np.flatnonzero(inside & ~left_out[start : start + len(part)])
            sizes.append(part["bytes"][chosen])
            hashes.append(part["hash"][chosen])
            places.append(start + chosen)
            start += len(part)
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        yield np.concatenate(sizes)[order], joined[order], np.concatenate(places)[order]


def _lasts(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the sorted hashes are the last of their kind."""
    return np.append(hashes[1:] != hashes[:-1], np.ones(min(len(hashes), 1), dtype=np.bool_))


def _cut(text: str, held_out: float) -> int:
    """Index of the first held-out character: after a line break, else a space, else just there.

    A break counts while the share it holds out is within half of the one asked for.
    """
    target = min(max(round(len(text) * (1 - held_out)), 1), len(text) - 1)
    reach = max(int(len(text) * min(held_out, 1 - held_out) / 2), 1)
    for mark in ("\n", " "):
        before = text.rfind(mark, max(target - reach, 0), target) + 1
        after = text.find(mark, target, min(target + reach, len(text) - 1)) + 1
        if found := [cut for cut in (before, after) if cut]:
            return min(found, key=lambda cut: abs(cut - target))
    return target
