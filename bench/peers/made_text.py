"""Text of any size, and a tokenizer for it, made in a process of its own: that of a bench must stay small.

Documents have 100 to 1,000 words, drawn by Zipf's law; with its exponent three million words hold some
100,000 different ones, as in English, and new ones keep coming.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

from rankbound.corpora.tokenizer import train_tokenizer

SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ck")]
EXPONENT = 1.3
TRAINED_ON = 20_000_000  # bytes


def write_text(path: Path, size: int) -> int:
    """Write JSON lines with about `size` bytes of text; return how many."""
    rng = np.random.default_rng(0)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            places = rng.zipf(EXPONENT, size=rng.integers(100, 1000))
            text = " ".join(map(word, places.tolist())).capitalize() + "."
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text)
    return written


@cache
def word(place: int) -> str:
    """The word at a place of the frequency list: the more frequent, the shorter."""
    syllables = []
    while True:
        place, last = divmod(place, len(SYLLABLES))
        syllables.append(SYLLABLES[last * 7919 % len(SYLLABLES)])
        if not place:
            return "".join(syllables) + ("," if last % 11 == 3 else "")


def train(text: Path, path: Path, vocab_size: int) -> None:
    with text.open(encoding="utf-8") as file:
        texts = (json.loads(line)["text"] for line in file.readlines(TRAINED_ON))
        train_tokenizer(texts, vocab_size).save(str(path))


def main() -> None:
    task = json.loads(sys.argv[1])
    size = write_text(Path(task["text"]), task["bytes"])
    train(Path(task["text"]), Path(task["tokenizer"]), task["vocab_size"])
    print(json.dumps({"bytes": size}))


if __name__ == "__main__":
    main()
