"""Tokenizers of any vocabulary size: byte pairs, unigram pieces, whole words.

Design decisions:
- Id 0 ends a document. Byte-level BPE (the default) and unigram follow with the 256 bytes, or below
  257 tokens with the 63 symbols that bytes fold onto: every text can be written, and every token
  stands for a fixed number of bytes. Words cannot write every text: id 1 is any unknown one.
- All kinds cut text into the same words, a space belonging to the word behind it, so a vocabulary of
  words is also reversible where it knows them.
- A merge or word must be seen twice in the train split, so a vocabulary cannot outgrow its text
  unnoticed.
- The unigram trainer of `tokenizers` sums in the order of a hash map: its pieces are the same each
  time, their scores to 14 digits, and those of symbols it had dropped not at all. Scores are
  rounded, dropped symbols all get the lowest and ids are given by score, so training is repeatable.
- A text that spells out the end-of-text token gets ordinary tokens for it: id 0 is never forged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rankbound.corpora.folding import SYMBOLS, byte_characters, fold
from rankbound.errors import InputError

Kind = Literal["bpe", "unigram", "word"]
KINDS: tuple[Kind, ...] = get_args(Kind)

END_OF_TEXT, END_OF_TEXT_ID = "<|endoftext|>", 0
UNKNOWN, UNKNOWN_ID = "<|unk|>", 1
SMALLEST_VOCABULARY = 64  # the end of text and 63 symbols
_BYTE_LEVEL_VOCABULARY = 257  # the end of text and 256 bytes

_PIECE = 1 << 16  # characters, of a long document
_LONE_SPACE = re.compile(r"(?<=\S)[ \n](?=\S)")


def train_tokenizer(texts: Iterable[str], vocab_size: int, kind: Kind = "bpe") -> Tokenizer:
    """Train on `texts`; the result is smaller than `vocab_size` where merges or words run out.

    Raises:
        InputError: Fewer than 64 tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"vocab_size {vocab_size} is too small: the end of text and the 63 symbols that bytes "
            f"fold onto make {SMALLEST_VOCABULARY} tokens at least"
        )
    folded = kind != "word" and vocab_size < _BYTE_LEVEL_VOCABULARY
    alphabet = SYMBOLS if folded else pre_tokenizers.ByteLevel.alphabet()
    model, trainer = _KINDS[kind](vocab_size, alphabet)
    tokenizer = Tokenizer(model)
    if folded:
        fold(tokenizer)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    pieces = (piece for text in texts for piece in cut_pieces(text))
    tokenizer.train_from_iterator(pieces, trainer)
    if kind == "unigram":
        tokenizer = _repeatable(tokenizer, vocab_size, alphabet)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json; which texts are special is not part of the file and set here."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id; a file from elsewhere may leave ids out."""
    return 1 + max(tokenizer.get_vocab().values())


def token_lengths(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Bytes that each id decodes to, shape (V,); the end of text has none, nor has an unknown word.

    Exact for every tokenizer trained here. One from elsewhere may change a text before it cuts it
    (its normalizer), then these are the bytes of the text as changed.
    """
    lengths = np.zeros(vocabulary_size(tokenizer), dtype=np.int32)
    byte_level = '"ByteLevel"' in as_json(tokenizer.decoder)
    added = tokenizer.get_added_tokens_decoder()
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in added:
            lengths[token_id] = 0 if added[token_id].special else len(token.encode())
        elif byte_level:
            lengths[token_id] = sum(character in _BYTE_CHARACTERS for character in token)
        elif re.fullmatch("<0x[0-9A-F]{2}>", token):
            lengths[token_id] = 1
        else:
            lengths[token_id] = len(token.removeprefix("##").replace("▁", " ").encode())
    lengths[END_OF_TEXT_ID] = 0
    return lengths


def cut_pieces(text: str, size: int = _PIECE) -> Iterator[str]:
    """Cut a text where no token can reach across, about every `size` characters."""
    start = 0
    while cut := _LONE_SPACE.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _bpe(vocab_size: int, alphabet: list[str]) -> tuple[models.Model, trainers.Trainer]:
    return models.BPE(), trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )


def _unigram(vocab_size: int, alphabet: list[str]) -> tuple[models.Model, trainers.Trainer]:
    return models.Unigram(), trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )


def _word(vocab_size: int, alphabet: list[str]) -> tuple[models.Model, trainers.Trainer]:
    return models.WordLevel(unk_token=UNKNOWN), trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, UNKNOWN],
        show_progress=False,
    )


_KINDS = {"bpe": _bpe, "unigram": _unigram, "word": _word}
_BYTE_CHARACTERS = frozenset(byte_characters())


def _repeatable(tokenizer: Tokenizer, vocab_size: int, alphabet: list[str]) -> Tokenizer:
    """Give the pieces of a unigram tokenizer scores and ids that do not change from run to run.

    The trainer overshoots sizes near that of the alphabet: the pieces of lowest score go.
    """
    state = json.loads(tokenizer.to_str())
    scores = {piece: score for piece, score in state["model"]["vocab"] if piece != END_OF_TEXT}
    lowest = min(scores.values())
    dropped = lowest + 1e-4 * (len(alphabet) + 1)  # the trainer spaces what it had dropped by 1e-4
    for symbol in alphabet:
        if scores[symbol] < dropped:
            scores[symbol] = lowest
    rounded = {piece: round(score, 6) for piece, score in scores.items()}
    symbols = sorted(alphabet)
    pieces = sorted(rounded.keys() - set(symbols), key=lambda piece: (-rounded[piece], piece))
    vocabulary = [[END_OF_TEXT, 0.0], *([p, rounded[p]] for p in [*symbols, *pieces])]
    state["model"]["vocab"] = vocabulary[:vocab_size]
    return Tokenizer.from_str(json.dumps(state))


def as_json(part: Any) -> str:
    """A part of a tokenizer as it stands in the file; empty for none."""
    return "" if part is None else bytes(part.__getstate__()).decode()
