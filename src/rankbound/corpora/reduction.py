"""What a word list does to the documents of a split on their way to ids.

Design decisions:
- Documents are split and deduplicated whole; only then are they cut to their spans. So the spans of a
  document, which may overlap, are all in one split, whatever is kept of it.
- Cutting is slower than encoding and happens where encoding does, on as many processes. All that it
  needs lies in one file, so that another process can do it.
- A control says what it is the control of: `counts` are those of the spans kept, but for documents,
  bytes and words, which are its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.control import Control
from rankbound.corpora.disk import write
from rankbound.corpora.encoding import encode
from rankbound.corpora.spans import SpanRules, WordListFilter
from rankbound.corpora.tokenizer import END_OF_TEXT_ID, token_lengths
from rankbound.corpora.word_list import PLACEHOLDERS, WordRules

_FILE = "reduction.json"


def counted(texts: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    """Yield `texts`; `counts` gets their documents, bytes and words."""
    for text in texts:
        counts["documents"] += 1
        counts["bytes"] += len(text.encode())
        counts["words"] += len(text.split())
        yield text


class Reduction:
    """Cuts documents to spans of listed words, or with `control` to as many tokens of any words."""

    def __init__(self, keep: WordListFilter, control: Control | None = None) -> None:
        self.keep, self.control = keep, control

    def training_texts(self, documents: Iterable[str]) -> Iterator[str]:
        """The texts that the corpus's tokenizer is trained on."""
        if self.control is not None:
            yield from self.control.training_texts(documents)
        else:
            for text in documents:
                yield from self.keep(text)[0]

    def encode(
        self, tokenizer: Tokenizer, documents: Iterable[str], counts: Counter[str]
    ) -> Iterator[NDArray[np.uint32]]:
        """The ids of what is kept of `documents`; `counts` gets what was seen and what was kept.

        Keys are documents, bytes and words of the result, and the fields of `SpanCounts` with
        `list_` before them.
        """
        if self.control is None:
            kept = (span for text in documents for span in self._count_list(text, counts))
            yield from encode(tokenizer, counted(kept, counts))
            return
        lengths = token_lengths(tokenizer)
        for text in documents:
            self._count_list(text, counts)
            ids = self.control.ids(text, tokenizer)
            ends = np.flatnonzero(ids == END_OF_TEXT_ID)
            counts["documents"] += len(ends)
            counts["bytes"] += int(lengths[ids].sum())
            spans = [span[:-1].tolist() for span in np.split(ids, ends + 1)[:-1]]
            counts["words"] += sum(len(span.split()) for span in tokenizer.decode_batch(spans))
            yield ids

    def _count_list(self, text: str, counts: Counter[str]) -> list[str]:
        spans, seen = self.keep(text)
        counts.update({f"list_{name}": number for name, number in asdict(seen).items()})
        return spans

    def save(self, folder: Path) -> None:
        """Write all that `load` needs."""
        state = {
            "listed": sorted(self.keep.listed - PLACEHOLDERS),
            "words": asdict(self.keep.words),
            "spans": asdict(self.keep.rules),
            "control": None
            if self.control is None
            else {"tokenizer": self.control.constrained.to_str(), "seed": self.control.seed},
        }
        write(folder / _FILE, [json.dumps(state).encode()])

    @staticmethod
    def load(folder: Path) -> Reduction | None:
        """The reduction saved in `folder`; None where there is none."""
        if not (folder / _FILE).exists():
            return None
        state = json.loads((folder / _FILE).read_text())
        keep = WordListFilter(state["listed"], WordRules(**state["words"]), SpanRules(**state["spans"]))
        if state["control"] is None:
            return Reduction(keep)
        constrained = Tokenizer.from_str(state["control"]["tokenizer"])
        constrained.encode_special_tokens = True
        return Reduction(keep, Control(keep, constrained, state["control"]["seed"]))
