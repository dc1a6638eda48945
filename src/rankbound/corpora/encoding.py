"""Texts to ids with any tokenizer, in bounded memory.

Design decisions:
- Where the tokenizer is one of ours, text is cut before single white space, as its pre-tokenizer does
  anyway, and each different piece is encoded once: the same ids sooner, since most of a text is words that
  came before. One from elsewhere may look across white space and gets whole documents.
- Ids travel as bytes, which join without a Python object a token.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from rankbound.corpora.folding import word_splitter
from rankbound.corpora.tokenizer import END_OF_TEXT_ID, as_json, cut_pieces

_PIECE = 1 << 16  # characters, of a long document
_BATCH = 1 << 20  # characters: an encoding takes some 100 bytes a token until its ids are written
_WHOLE = 1 << 22  # characters: longest document that a tokenizer from elsewhere gets in one piece
_REMEMBERED = 1 << 18  # words, at some 200 bytes
_LONGEST_WORD = 64  # characters that are remembered
_BEFORE_LONE_SPACE = re.compile(r"(?<=\S)(?=[ \n]\S)")


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """Yield the ids of all texts, each closed by the end of text, in arrays of bounded length."""
    ours = _is_ours(tokenizer)
    ids_of = _word_by_word(tokenizer) if ours else partial(_encoded, tokenizer)
    end = _as_bytes([END_OF_TEXT_ID])
    for batch in _batches(texts, _PIECE if ours else _WHOLE):
        encoded = ids_of([piece for piece, _ in batch])
        closed = (ids + end if last else ids for ids, (_, last) in zip(encoded, batch, strict=True))
        yield np.frombuffer(b"".join(closed), dtype=np.uint32)


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[bytes]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [_as_bytes(encoding.ids) for encoding in encodings]


def _word_by_word(tokenizer: Tokenizer) -> Callable[[list[str]], list[bytes]]:
    """`_encoded` with a memory of words; those that come first stay, being the frequent ones."""
    memory: dict[str, bytes] = {}

    def encoded(texts: list[str]) -> list[bytes]:
        words = [_BEFORE_LONE_SPACE.split(text) for text in texts]
        new = list({word: None for word in chain.from_iterable(words) if word not in memory})
        memory.update(zip(new, _encoded(tokenizer, new), strict=True))
        result = [b"".join(map(memory.__getitem__, these)) for these in words]
        for word in new:
            if len(word) > _LONGEST_WORD or len(memory) > _REMEMBERED:
                del memory[word]
        return result

    return encoded


def _as_bytes(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()


def encode_words(tokenizer: Tokenizer, words: list[str]) -> Iterator[list[str]]:
    """Yield the tokens of each word as it stands behind a space, as text, without that space."""
    for encoding in tokenizer.encode_batch([f" {word}" for word in words], add_special_tokens=False):
        texts = [tokenizer.decode([i], skip_special_tokens=False).strip() for i in encoding.ids]
        yield texts[1:] if texts[0] == "" else texts


def _batches(texts: Iterable[str], piece_size: int) -> Iterator[list[tuple[str, bool]]]:
    """Group (piece, whether it ends its text) into lists of about `_BATCH` characters."""
    batch: list[tuple[str, bool]] = []
    characters = 0
    for text in texts:
        pieces = list(cut_pieces(text, piece_size))
        for i, piece in enumerate(pieces):
            batch.append((piece, i == len(pieces) - 1))
            characters += len(piece)
            if characters >= _BATCH:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _is_ours(tokenizer: Tokenizer) -> bool:
    """Whether it cuts text into words as the tokenizers trained here do."""
    ours = (pre_tokenizers.ByteLevel(add_prefix_space=False), word_splitter())
    return as_json(tokenizer.pre_tokenizer) in map(as_json, ours)
