"""A vocabulary cut to its most frequent tokens, the text staying the same.

Design decisions:
- `size` counts every id there is: 0 ends a document, 1 is any rarer token, and from 2 on come the
  tokens most frequent in the train split, the most frequent first. So id i means the same token at
  every size at which it exists, and sweeps over sizes are nested.
- The tokenizer stays as it was, in its own ids: its merges need the tokens that fell away. The list
  of ids kept is the whole map between both numberings.
- Rarer tokens stand for no fixed number of bytes: they count as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.tokenizer import END_OF_TEXT_ID, UNKNOWN, UNKNOWN_ID
from rankbound.errors import InputError

_SMALLEST = 3


class TopTokens:
    """Numbers tokens anew by `kept`: the tokenizer's ids of the tokens numbered 2, 3 and so on."""

    def __init__(self, kept: Sequence[int], tokenizer_size: int) -> None:
        self.kept = np.asarray(kept, dtype=np.int64)
        self.size = len(self.kept) + 2
        self._new = np.full(tokenizer_size, UNKNOWN_ID, dtype=np.uint32)
        self._new[END_OF_TEXT_ID] = END_OF_TEXT_ID
        self._new[self.kept] = np.arange(2, self.size)

    def renumber(self, ids: NDArray[np.unsignedinteger]) -> NDArray[np.uint32]:
        """Ids of the tokenizer to ids of the corpus, any shape."""
        new: NDArray[np.uint32] = self._new[ids]
        return new

    def lengths(self, token_lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        """Bytes of each id of the tokenizer, (V,), to bytes of each id of the corpus, (size,)."""
        return np.concatenate([np.zeros(2, np.int32), token_lengths[self.kept]])

    def decode(self, tokenizer: Tokenizer, ids: Sequence[int]) -> str:
        """Text of ids of the corpus; the end of text is left out and a rarer token shows as <|unk|>."""
        texts = []
        for unknown, run in groupby((i for i in ids if i != END_OF_TEXT_ID), lambda i: i == UNKNOWN_ID):
            run_ids = list(run)
            if unknown:
                texts.append(UNKNOWN * len(run_ids))
            else:
                texts.append(tokenizer.decode(self.kept[np.array(run_ids) - 2].tolist()))
        return "".join(texts)


def top_tokens(counts: NDArray[np.int64], size: int, unknown_id: int | None = None) -> TopTokens:
    """Choose the ids to keep by their counts in the train split, (V,).

    Of tokens as frequent as each other the smaller id is kept. `unknown_id` is the tokenizer's own
    id for what it does not know, if it has one; it becomes one with the rarer tokens.

    Raises:
        InputError: A size below 3, or more tokens than the train split uses.
    """
    if size < _SMALLEST:
        raise InputError(
            f"tokens_only_top {size} is too small: the end of text, the unknown token and one more "
            f"make {_SMALLEST}"
        )
    order = np.argsort(-counts, kind="stable")
    taken = {END_OF_TEXT_ID, unknown_id}
    used = [int(i) for i in order[counts[order] > 0] if int(i) not in taken]
    if size > len(used) + 2:
        raise InputError(
            f"tokens_only_top {size} is more than the train split uses: choose at most {len(used) + 2}"
        )
    return TopTokens(used[: size - 2], len(counts))
