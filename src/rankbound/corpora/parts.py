"""Documents on disk as plain text, in parts: what is read once, whatever follows reads again.

    read-00000.txt   UTF-8, documents end to end
    read-00000.npy   an entry each: hash and size
    read-00000.json  what was counted so far; written last, so that a part with it is whole

Design decisions:
- A source may be slow, compressed or far away and is read once; splitting, training a tokenizer and
  encoding read its text from here, at the disk's speed. That takes the text's size on disk for a while.
- A part is the unit of going on after a kill and of sharing work between processes.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankbound.corpora.disk import npy, write
from rankbound.corpora.split import ENTRY, Entries, text_hash

PART = 1 << 24  # bytes of text, or one document of more
MOST = 1 << 19  # documents in a part: 16 bytes each in memory

#: The texts of documents, one after the other; counts in the argument what it reads and drops.
Read = Callable[["Counter[str]"], Iterator[str]]


class Parts:
    """The parts in a folder; iterating yields the entries of each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self.tallies = self._whole()

    @property
    def tally(self) -> Counter[str]:
        """What was counted over all parts so far."""
        return Counter(self.tallies[-1] if self.tallies else {})

    def __len__(self) -> int:
        return len(self.tallies)

    def __iter__(self) -> Iterator[Entries]:
        return (self.entries(number) for number in range(len(self)))

    def entries(self, number: int) -> Entries:
        """The entries of a part, shape (documents,)."""
        entries: Entries = np.load(self._file(number, "npy"))
        return entries

    def fill(self, read: Read) -> None:
        """Write what `read` yields, going on behind what is there."""
        tally = self.tally
        texts = read(tally)
        while not tally["finished"]:
            number = len(self)
            hashes, sizes = array("Q"), array("Q")
            write(self._file(number, "txt"), self._contents(texts, tally, hashes, sizes))
            entries = np.empty(len(hashes), dtype=ENTRY)
            entries["hash"], entries["bytes"] = hashes, sizes
            write(self._file(number, "npy"), [npy(entries)])
            write(self._file(number, "json"), [json.dumps(tally).encode()])
            self.tallies.append(dict(tally))

    def texts(self, number: int, wanted: NDArray[np.bool_]) -> Iterator[str]:
        """Read the wanted documents of a part, one at a time; `wanted` has shape (documents,)."""
        sizes = self.entries(number)["bytes"].tolist()
        with self._file(number, "txt").open("rb") as file:
            for size, is_wanted in zip(sizes, wanted.tolist(), strict=True):
                if is_wanted:
                    yield file.read(size).decode()
                else:
                    file.seek(size, 1)

    def forget(self, number: int) -> None:
        """Give the room of a part's text back; its entries stay."""
        self._file(number, "txt").unlink(missing_ok=True)

    def _contents(
        self, texts: Iterator[str], tally: Counter[str], hashes: array[int], sizes: array[int]
    ) -> Iterator[bytes]:
        """The documents of one part, their hashes and sizes put into the arrays."""
        total = 0
        for text in texts:
            content = text.encode()
            hashes.append(text_hash(content, self._seed))
            sizes.append(len(content))
            total += len(content)
            yield content
            if total >= PART or len(sizes) >= MOST:
                return
        tally["finished"] = 1

    def _whole(self) -> list[dict[str, int]]:
        tallies: list[dict[str, int]] = []
        while (path := self._file(len(tallies), "json")).exists():
            tallies.append(json.loads(path.read_text()))
        return tallies

    def _file(self, number: int, kind: str) -> Path:
        return self._folder / f"read-{number:05}.{kind}"
