"""Train and valid: which document goes where.

Design decisions:
- Documents are ordered by a hash of (seed, text) and the first of them are held out, as many as
  come closest to the share of bytes asked for. The order of the files does not matter, and copies
  of a text have one hash, so they never end on both sides.
- A corpus of a single text is cut near its end instead, at a line break if one is close.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

SplitName = Literal["train", "valid"]
SPLITS: tuple[SplitName, ...] = ("train", "valid")


@dataclass(frozen=True)
class Split:
    """A rule that assigns texts to splits, made by `choose_split`.

    - `threshold`: largest hash of a held-out document; None where the one text is cut
    """

    valid_share: float
    seed: int
    threshold: int | None

    @property
    def rule(self) -> str:
        """The rule in words, for the data card."""
        if self.threshold is None:
            return "one text, cut near its end"
        return "whole documents, by a hash of seed and text"

    def texts(self, documents: Iterable[str], split: SplitName) -> Iterator[str]:
        """Yield the texts that belong to `split`, in their order."""
        for text in documents:
            if self.threshold is None:
                cut = _cut(text, self.valid_share)
                yield text[:cut] if split == "train" else text[cut:]
            elif (_hash(text, self.seed) <= self.threshold) == (split == "valid"):
                yield text


def choose_split(documents: Iterable[str], valid_share: float, seed: int) -> Split | None:
    """Read all documents once and choose the rule; None where two splits cannot both hold text."""
    sizes: dict[int, int] = {}
    length = 0
    for text in documents:
        key = _hash(text, seed)
        sizes[key] = sizes.get(key, 0) + len(text.encode())
        length = len(text)
    if len(sizes) < 2:
        return Split(valid_share, seed, None) if length > 1 else None
    ordered = sorted(sizes)
    held_out = np.cumsum([sizes[key] for key in ordered])
    nearest = np.abs(held_out[:-1] / held_out[-1] - valid_share).argmin()
    return Split(valid_share, seed, ordered[nearest])


def _hash(text: str, seed: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest())


def _cut(text: str, valid_share: float) -> int:
    """Index of the first held-out character: after a line break, else a space, else just there.

    A break counts while the share it holds out is within half of the one asked for.
    """
    target = min(max(round(len(text) * (1 - valid_share)), 1), len(text) - 1)
    reach = max(int(len(text) * min(valid_share, 1 - valid_share) / 2), 1)
    for mark in ("\n", " "):
        before = text.rfind(mark, max(target - reach, 0), target) + 1
        after = text.find(mark, target, min(target + reach, len(text) - 1)) + 1
        if found := [cut for cut in (before, after) if cut]:
            return min(found, key=lambda cut: abs(cut - target))
    return target
