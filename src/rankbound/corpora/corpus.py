"""A prepared corpus: a folder of packed tokens that describes itself.

    corpus.json      the data card
    tokenizer.json   in the format of `tokenizers`; its ids are the corpus's where the card keeps no map
    token_bytes.npy  int32 (V,): bytes that each token decodes to; all 0 where that is not fixed
    train.bin        little-endian uint16 or uint32 ids, documents end to end, each closed by id 0
    valid.bin
    test.bin         where a test split was asked for

Design decisions:
- Shards are memory-mapped: a whole study shares the page cache.
- Opening compares sizes, which costs nothing; `verify` compares every sha256.
- `corpus_sha256` is one name for tokenizer and shards: two runs with the same saw the same tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.sources import Errors, Reading
from rankbound.corpora.spans import SpanRules
from rankbound.corpora.split import SPLITS, SplitName
from rankbound.corpora.statistics import WordSplits
from rankbound.corpora.tokenizer import load_tokenizer, vocabulary_size
from rankbound.corpora.top_tokens import TopTokens
from rankbound.corpora.word_list import WordRules
from rankbound.errors import InputError

CARD, TOKENIZER, TOKEN_BYTES = "corpus.json", "tokenizer.json", "token_bytes.npy"
SHARDS: dict[SplitName, str] = {name: f"{name}.bin" for name in SPLITS}


@dataclass(frozen=True)
class Settings:
    """The arguments of `prepare` that shape a corpus; its docstring explains them.

    A card that is older than a setting was made with the value given here.
    """

    vocab_size: int
    valid_share: float
    seed: int
    document_separator: str | None
    errors: Errors
    test_share: float = 0.0
    text_field: str = "text"
    subset: str | None = None
    split: str = "train"
    max_documents: int | None = None
    deduplicate: bool = True
    tokenizer_bytes: int = 1 << 26
    tokenizer: str = "bpe"
    end_of_text: str | None = None
    word_list: str | None = None
    top_words: int | None = None
    words: WordRules = field(default_factory=WordRules)
    spans: SpanRules = field(default_factory=SpanRules)
    control: bool = False
    tokens_only_top: int | None = None

    @staticmethod
    def load(state: Mapping[str, Any]) -> Settings:
        """Settings as they stand in a card."""
        words, spans = WordRules(**state.get("words", {})), SpanRules(**state.get("spans", {}))
        return Settings(**{**state, "words": words, "spans": spans})

    @property
    def reading(self) -> Reading:
        """Those that say how to read a source."""
        return Reading(self.text_field, self.subset, self.split, self.document_separator, self.errors)


@dataclass(frozen=True)
class SplitCard:
    """Counts of one split; tokens include the end of text of each document, bytes do not.

    - `words_per_token`: None in a card that is older than it
    - `unknown`: tokens that stand for what the vocabulary does not hold
    """

    documents: int
    bytes: int
    words: int
    tokens: int
    bytes_per_token: float
    words_per_token: float | None = None
    unknown: int = 0


@dataclass(frozen=True)
class WordListCard:
    """What a word list kept of each split, and how the tokenizer writes its words.

    - `words`: in the list
    - `counts`: by split, of the documents before they were cut: `words` looked up, those `listed`, those
      `kept` in any span, and `spans` kept; `coverage` is listed / words, `share_kept` kept / words
    - `splits`: of the words of the list
    """

    words: int
    counts: dict[SplitName, dict[str, float]]
    splits: WordSplits


@dataclass(frozen=True)
class Card:
    """What corpus.json says.

    - `source`: where the text came from
    - `inputs`: sha256 of each input
    - `settings`: with the inputs, all that decides the result
    - `split_rule`: how documents were split
    - `dropped`: documents that were `empty`, `skipped` as they could not be read, or `copies` of another
    - `unigram_entropy`: nats per token of the valid split under the unigram distribution of the
      train split, smoothed as `unigram_smoothing` says
    - `bigram_entropy`: likewise, given the last token, smoothed as `bigram_smoothing` says
    - `token_types`: ids that occur in the train split
    - `bytes_known`: whether the bytes of tokens add up to those of the text, to a thousandth
    - `word_list`: what it kept, where there was one
    - `kept_tokens`: the tokenizer's ids of the tokens with ids 2, 3 and so on, where others became unknown
    - `sha256`: of each file beside the card
    - `corpus_sha256`: of all of them
    """

    source: str
    inputs: dict[str, str]
    settings: Settings
    split_rule: str
    vocab_size: int
    dtype: str
    splits: dict[str, SplitCard]
    unigram_entropy: float
    unigram_smoothing: str
    sha256: dict[str, str]
    corpus_sha256: str
    dropped: dict[str, int] = field(default_factory=dict)
    bigram_entropy: float | None = None
    bigram_smoothing: str | None = None
    token_types: int | None = None
    bytes_known: bool = True
    word_list: WordListCard | None = None
    kept_tokens: list[int] | None = None


class Corpus:
    """Opens a prepared corpus; raises `InputError` where a file is missing or a shard cut short."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.card = _read_card(self.path)
        for name in contents(self.splits):
            if not (self.path / name).is_file():
                raise InputError(f"{self.path / name} is missing: {self._mend}")
        for split in self.splits:
            shard = self.path / SHARDS[split]
            actual = shard.stat().st_size
            expected = self.card.splits[split].tokens * self._dtype.itemsize
            if actual != expected:
                raise InputError(f"{shard} has {actual} bytes, its card says {expected}: {self._mend}")

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits that there are: train, valid and perhaps test."""
        return tuple(name for name in SPLITS if name in self.card.splits)

    @property
    def vocab_size(self) -> int:
        return self.card.vocab_size

    @property
    def sha256(self) -> str:
        """The name of tokenizer and shards together."""
        return self.card.corpus_sha256

    def tokens(self, split: SplitName) -> np.memmap[tuple[int], np.dtype[np.unsignedinteger]]:
        """Map the ids of a split, shape (tokens,), uint16 or uint32, read-only."""
        if split not in self.splits:
            raise InputError(f"{self.path} has no {split} split: prepare it with --{split}_share")
        return np.memmap(self.path / SHARDS[split], dtype=self._dtype, mode="r")

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """Bytes that each token decodes to, shape (V,); 0 for the end of text."""
        lengths: NDArray[np.int32] = np.load(self.path / TOKEN_BYTES)
        return lengths

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, in ids of its own where the card keeps a map; see `decode`."""
        return load_tokenizer(self.path / TOKENIZER)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids of this corpus; the end of text is left out."""
        if self.card.kept_tokens is None:
            return self.tokenizer.decode([i for i in ids if i], skip_special_tokens=False)
        top = TopTokens(self.card.kept_tokens, vocabulary_size(self.tokenizer))
        return top.decode(self.tokenizer, list(ids))

    def verify(self) -> None:
        """Compare every file with the card; `InputError` names the first that differs.

        Takes about a second a gigabyte.
        """
        for name in contents(self.splits):
            if file_sha256(self.path / name) != self.card.sha256[name]:
                raise InputError(f"{self.path / name} differs from its card: {self._mend}")
        if corpus_sha256(self.card.sha256) != self.card.corpus_sha256:
            raise InputError(f"{self.path / CARD} was altered: {self._mend}")

    @property
    def _dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(self.card.dtype).newbyteorder("<")

    @property
    def _mend(self) -> str:
        return f"remove {self.path} and prepare it again with rankbound prepare"


def contents(splits: Iterable[SplitName]) -> tuple[str, ...]:
    """The names of all files of a corpus with these splits, but the card."""
    return (TOKENIZER, TOKEN_BYTES, *(SHARDS[name] for name in splits))


def file_sha256(path: Path) -> str:
    """Hash a file's content, without reading it into memory at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def corpus_sha256(sha256: Mapping[str, str]) -> str:
    """One hash of the hashes of tokenizer and shards."""
    lines = "".join(f"{sha256[name]}  {name}\n" for name in contents(SPLITS) if name in sha256)
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_card(folder: Path) -> Card:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        splits = {
            split: SplitCard(**card["splits"][split])
            for split in SPLITS
            if split in card["splits"] or split != "test"
        }
        if words := card.get("word_list"):
            card["word_list"] = WordListCard(**{**words, "splits": WordSplits(**words["splits"])})
        return Card(**{**card, "splits": splits, "settings": Settings.load(card["settings"])})
    except OSError as error:
        raise InputError(
            f"{folder} is not a prepared corpus, it has no {CARD}: make it with "
            f"rankbound prepare --corpus TEXT --output {folder}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder / CARD} is damaged or of another version: remove {folder} and prepare it "
            "again with rankbound prepare"
        ) from error
