"""The control of a word list: unconstrained text from the same documents, equal in tokens.

Design decisions:
- Equal document by document: where the spans kept of a document make so many tokens, the control
  takes as many from the same document, so both corpora are of the same documents in the same shares.
- Each corpus has a tokenizer of its own, trained on its own text with the same settings: a control
  in the tokenizer of the other would differ in how well the tokenizer fits, too.
- Whole spans are taken until there are enough tokens, then the longest are cut, one token at a time
  from their ends: no span is cut by more than it must be, and none is cut to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.encoding import encode
from rankbound.corpora.spans import WordListFilter
from rankbound.corpora.tokenizer import END_OF_TEXT_ID


class Control:
    """Draws the control of what `filter` keeps; picklable as long as its parts are.

    Args:
        filter: Decides what is kept of a document.
        constrained: Tokenizer of the corpus that the control is held against.
        seed: Chooses where in a document its spans lie.
    """

    def __init__(self, filter: WordListFilter, constrained: Tokenizer, seed: int) -> None:
        self._filter, self.constrained, self.seed = filter, constrained, seed

    def training_texts(self, documents: Iterable[str]) -> Iterator[str]:
        """Spans to train the control's tokenizer on: one for each span kept, as many words long."""
        for text in documents:
            kept, _ = self._filter(text)
            yield from islice(self._filter.control(text, self.seed), len(kept))

    def ids(self, text: str, tokenizer: Tokenizer) -> NDArray[np.uint32]:
        """Ids of the control spans of a document, each closed by the end of text.

        As many as the spans kept of it make in their own tokenizer, ends included; none for none.
        """
        kept, _ = self._filter(text)
        wanted = sum(len(ids) for ids in encode(self.constrained, kept))
        spans: list[list[int]] = []
        tokens = 0
        candidates = self._filter.control(text, self.seed)
        while tokens < wanted:
            batch = list(islice(candidates, max(len(kept) - len(spans), 1)))
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                if tokens < wanted:
                    spans.append(encoding.ids)
                    tokens += len(encoding.ids) + 1
        for _ in range(tokens - wanted):
            max(spans, key=len).pop()
        return np.array([i for span in spans for i in (*span, END_OF_TEXT_ID)], dtype=np.uint32)
