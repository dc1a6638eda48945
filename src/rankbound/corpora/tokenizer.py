"""Byte-level BPE at any vocabulary size from 257 up.

Design decisions:
- Ids: 0 ends a document, 1 to 256 are the bytes, merges follow. Every text can be written, and
  every token but the first stands for a fixed number of bytes.
- A merge must be seen twice in the train split, so a vocabulary cannot outgrow its text unnoticed.
- Long documents are cut before single white space, where the pre-tokenizer cuts anyway: the tokens
  are the same, memory stays bounded and all cores share the work.
- A text that spells out the end-of-text token gets ordinary tokens for it: id 0 is never forged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, END_OF_TEXT_ID = "<|endoftext|>", 0
SMALLEST_VOCABULARY = 257

_PIECE = 1 << 16  # characters: about 15 pieces a batch keep the cores busy
_BATCH = 1 << 20  # characters: an encoding takes some 100 bytes a token until its ids are written
_LONE_SPACE = re.compile(r"(?<=\S)[ \n](?=\S)")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on `texts`; the result is smaller than `vocab_size` where the merges run out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = (piece for text in texts for piece in cut_pieces(text))
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json; which texts are special is not part of the file and set here."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_lengths(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Bytes that each id decodes to, shape (V,); the end of text has none."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int32)
    for token, token_id in tokenizer.get_vocab().items():
        lengths[token_id] = len(token)  # a character of the byte-level alphabet is a byte
    lengths[END_OF_TEXT_ID] = 0
    return lengths


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """Yield the ids of all texts, each closed by the end of text, in arrays of bounded length."""
    for batch in _batches(texts):
        encodings = tokenizer.encode_batch_fast([piece for piece, _ in batch])
        ids: list[int] = []
        for encoding, (_, last) in zip(encodings, batch, strict=True):
            ids += encoding.ids
            if last:
                ids.append(END_OF_TEXT_ID)
        yield np.array(ids, dtype=np.uint32)


def cut_pieces(text: str, size: int = _PIECE) -> Iterator[str]:
    """Cut a text where no token can reach across, about every `size` characters."""
    start = 0
    while cut := _LONE_SPACE.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Group (piece, whether it ends its text) into lists of about `_BATCH` characters."""
    batch: list[tuple[str, bool]] = []
    characters = 0
    for text in texts:
        pieces = list(cut_pieces(text))
        for i, piece in enumerate(pieces):
            batch.append((piece, i == len(pieces) - 1))
            characters += len(piece)
            if characters >= _BATCH:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch
