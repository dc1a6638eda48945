"""Spans of documents whose every word is in a list, and spans as long from anywhere in them.

Design decisions:
- A document is read in windows of so many words, one every `stride` words up to its end, where they
  get shorter. A window is kept if all its words are listed and it has enough of them; a placeholder
  counts as a listed word. That is the published procedure, so windows that overlap are all kept and
  text may come several times; `overlaps` joins them instead.
- A window is of words between white space, which stays as it is; a word is looked up in its parts.
- A document becomes the list of its spans, each a document of its own from then on. The split is
  chosen before, by whole documents, so no text is on both sides.
- The control takes, for each span kept of a document, one of the same number of words from anywhere
  in the same document, by the same rules of writing, whatever its words. The place is a hash of seed
  and text, so that the control is the same in any order and on any number of processes.
- One look-up a distinct word: results are kept in a table that is emptied when it grows too long.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Literal

import numpy as np

from rankbound.corpora.word_list import PLACEHOLDERS, WordRules
from rankbound.errors import InputError

_WORDS = re.compile(r"(\s*)(\S+)")
_TABLE = 1 << 19  # distinct words as written: some 150 MB


@dataclass(frozen=True)
class SpanRules:
    """Which windows of a document are kept.

    Args:
        window: Words of a window, as white space parts them.
        stride: Words from the start of a window to that of the next.
        min_words: Words that a span must have, those too short to be looked up not counted; the
            published rule is more than 40.
        overlaps: Keep each window as it is (keep), or join those that overlap or touch into one span.
    """

    window: int = 110
    stride: int = 30
    min_words: int = 41
    overlaps: Literal["keep", "join"] = "keep"

    def __post_init__(self) -> None:
        for name in ("window", "stride", "min_words"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is too small: choose 1 or more")
        if self.min_words > self.window:
            raise InputError(
                f"min_words {self.min_words} is more than the window of {self.window} words: choose less"
            )


@dataclass(frozen=True)
class SpanCounts:
    """What filtering saw; adds up over documents.

    - `words`: words looked up, `listed`: those in the list or placeholders
    - `kept`: those in any span kept, each once however many windows hold it
    - `spans`: spans kept
    """

    words: int = 0
    listed: int = 0
    kept: int = 0
    spans: int = 0

    def __add__(self, other: SpanCounts) -> SpanCounts:
        return SpanCounts(
            self.words + other.words,
            self.listed + other.listed,
            self.kept + other.kept,
            self.spans + other.spans,
        )

    @property
    def coverage(self) -> float:
        """Share of the running words that the list holds."""
        return self.listed / self.words if self.words else 0.0

    @property
    def share_kept(self) -> float:
        """Share of the running words that are in a span kept."""
        return self.kept / self.words if self.words else 0.0


class WordListFilter:
    """Cuts documents to their spans of listed words."""

    def __init__(
        self, listed: Iterable[str], words: WordRules | None = None, spans: SpanRules | None = None
    ) -> None:
        self.listed = frozenset(listed) | PLACEHOLDERS
        self.words, self.rules = words or WordRules(), spans or SpanRules()
        self._table: dict[str, tuple[str, int, int]] = {}

    def __call__(self, text: str) -> tuple[list[str], SpanCounts]:
        """The spans of a document that are kept, in order, and what was counted in it."""
        document = self._read(text)
        kept = list(self._kept(document))
        words = document.looked_up
        inside = sum(words[end] - words[start] for start, end in _joined(kept))
        counts = SpanCounts(words[-1], words[-1] - document.unlisted[-1], inside, len(kept))
        return [document.text(start, end) for start, end in kept], counts

    def control(self, text: str, seed: int) -> Iterator[str]:
        """Spans as long as those kept of the document, from anywhere in it, without end.

        The first as many as were kept match them one for one; none comes where none was kept.
        """
        document = self._read(text)
        lengths = [end - start for start, end in self._kept(document)]
        if not lengths:
            return
        size = len(document.written)
        starts = np.arange(0, size, self.rules.stride)
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
        raw = np.random.Philox(key=int.from_bytes(digest)).random_raw(len(starts))
        starts = starts[np.argsort(raw, kind="stable")]
        for i in count():
            length = lengths[i % len(lengths)]
            start = min(int(starts[i % len(starts)]), size - length)
            yield document.text(start, start + length)

    def _kept(self, document: _Document) -> Iterator[tuple[int, int]]:
        size = len(document.written)
        windows = (
            (start, min(start + self.rules.window, size)) for start in range(0, size, self.rules.stride)
        )
        kept = (
            (start, end)
            for start, end in windows
            if document.unlisted[start] == document.unlisted[end]
            and document.looked_up[end] - document.looked_up[start] >= self.rules.min_words
        )
        return kept if self.rules.overlaps == "keep" else _joined(kept)

    def _read(self, text: str) -> _Document:
        found = _WORDS.findall(text)
        entries = [self._entry(word) for _, word in found]
        return _Document(
            [space for space, _ in found],
            [written for written, _, _ in entries],
            list(accumulate((n for _, n, _ in entries), initial=0)),
            list(accumulate((n for _, _, n in entries), initial=0)),
        )

    def _entry(self, word: str) -> tuple[str, int, int]:
        """How a word is written, how many parts of it are looked up, how many are not listed."""
        if (entry := self._table.get(word)) is None:
            written, parts = self.words.read(word)
            entry = written, len(parts), sum(part not in self.listed for part in parts)
            if len(self._table) >= _TABLE:
                self._table.clear()
            self._table[word] = entry
        return entry

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_table": {}}


@dataclass(frozen=True)
class _Document:
    """A document of n words: white space before each, each as written, and sums up to each, (n + 1,)."""

    spaces: list[str]
    written: list[str]
    looked_up: list[int]
    unlisted: list[int]

    def text(self, start: int, end: int) -> str:
        pairs = zip(self.spaces[start:end], self.written[start:end], strict=True)
        return "".join(part for pair in pairs for part in pair).strip()


def _joined(spans: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join spans, sorted by start, that overlap or touch."""
    last: tuple[int, int] | None = None
    for start, end in spans:
        if last is not None and start <= last[1]:
            last = last[0], max(last[1], end)
        else:
            if last is not None:
                yield last
            last = start, end
    if last is not None:
        yield last
