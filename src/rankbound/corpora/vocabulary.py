"""The vocabulary that settings ask for: which words a text may hold, and how it is cut into tokens.

Design decisions:
- What is decided on the train split (the most frequent words, the tokenizers) is decided before anything
  is encoded, and kept, so that a second start and other processes work with the same.
- The most frequent words are counted on the whole train split, tokenizers trained on a sample of it.
- Files named in settings are inputs like the text: their hashes are in the card, their paths are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from rankbound.corpora.control import Control
from rankbound.corpora.corpus import Settings
from rankbound.corpora.pretrained import pretrained_tokenizer
from rankbound.corpora.reduction import Reduction
from rankbound.corpora.spans import SpanRules, WordListFilter
from rankbound.corpora.tokenizer import KINDS, SMALLEST_VOCABULARY, Kind, train_tokenizer, vocabulary_size
from rankbound.corpora.word_list import WordCounts, WordRules, read_word_list
from rankbound.errors import InputError

#: The documents of the train split from their start, any number of times.
Documents = Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Vocabulary:
    """Settings and what their files hold.

    - `listed`: the word list, if one is named
    - `pretrained`: the tokenizer, if it is from elsewhere
    """

    settings: Settings
    listed: frozenset[str] | None
    pretrained: Tokenizer | None

    @property
    def size(self) -> int:
        """Ids that the tokenizer has, and the corpus where none become unknown."""
        return self.settings.vocab_size if self.pretrained is None else vocabulary_size(self.pretrained)

    @property
    def name(self) -> str:
        """Fit for a folder's name; tells apart what is likely to be made side by side."""
        settings = self.settings
        parts = [str(self.size)]
        if settings.tokenizer != "bpe":
            parts.append(Path(settings.tokenizer).stem if self.pretrained else settings.tokenizer)
        if settings.word_list is not None:
            parts.append(Path(settings.word_list).stem)
        if settings.top_words is not None:
            parts.append(f"{settings.top_words}words")
        if settings.control:
            parts.append("control")
        if settings.tokens_only_top is not None:
            parts.append(f"top{settings.tokens_only_top}")
        return "-".join(parts)

    def inputs(self) -> dict[str, str]:
        """Sha256 of what the files named in the settings hold."""
        found = {}
        if self.listed is not None:
            found["word list"] = "\n".join(sorted(self.listed))
        if self.pretrained is not None:
            found["tokenizer"] = self.pretrained.to_str()
        return {name: hashlib.sha256(content.encode()).hexdigest() for name, content in found.items()}

    def reduction(self, train: Documents, sample: Documents) -> Reduction | None:
        """What to keep of documents, counted on `train`; a control's counterpart is trained on `sample`."""
        settings, listed = self.settings, self.listed
        if settings.top_words is not None:
            counts = WordCounts()
            for text in train():
                counts.add(settings.words.read(text)[1])
            listed = counts.top(settings.top_words)
        if listed is None:
            return None
        reduction = Reduction(WordListFilter(listed, settings.words, settings.spans))
        if not settings.control:
            return reduction
        constrained = self.tokenizer(reduction.training_texts(sample()))
        return Reduction(reduction.keep, Control(reduction.keep, constrained, settings.seed))

    def tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer for `texts`.

        Raises:
            InputError: No text, or too little for the vocabulary asked for.
        """
        if self.pretrained is not None:
            return self.pretrained
        wanted = self.settings.vocab_size
        tokenizer = train_tokenizer(_some(texts), wanted, _kind(self.settings.tokenizer))
        largest = tokenizer.get_vocab_size()
        if largest < wanted:
            raise InputError(
                f"vocab_size {wanted} is more than the text supports: its train split yields "
                f"{largest} tokens; choose at most that or give more text"
            )
        return tokenizer


def open_vocabulary(settings: Settings, word_list: Path | None) -> Vocabulary:
    """Check the settings of the vocabulary and read the files they name.

    Raises:
        InputError: A setting out of range or without effect, or a file that cannot be used.
    """
    listed = None if word_list is None else read_word_list(word_list, settings.words)
    pretrained = None
    if settings.tokenizer not in KINDS:
        pretrained = pretrained_tokenizer(settings.tokenizer, settings.end_of_text)
    vocabulary = Vocabulary(settings, listed, pretrained)
    _check(vocabulary)
    return vocabulary


def _check(vocabulary: Vocabulary) -> None:
    settings, size = vocabulary.settings, vocabulary.size
    if vocabulary.pretrained is None and settings.end_of_text is not None:
        raise InputError("end_of_text is for a tokenizer from elsewhere: name one by --tokenizer")
    if size < SMALLEST_VOCABULARY:
        raise InputError(f"vocab_size {size} is too small: choose at least {SMALLEST_VOCABULARY}")
    if settings.tokens_only_top is not None and not 3 <= settings.tokens_only_top <= size:
        raise InputError(
            f"tokens_only_top {settings.tokens_only_top} is out of reach: choose from 3 to the {size} "
            "tokens of the tokenizer"
        )
    if vocabulary.listed is not None and settings.top_words is not None:
        raise InputError("word_list and top_words are two lists: name one")
    if vocabulary.listed is None and settings.top_words is None:
        without_effect = {
            "control": settings.control,
            "words": settings.words != WordRules(),
            "spans": settings.spans != SpanRules(),
        }
        if names := [name for name, is_set in without_effect.items() if is_set]:
            raise InputError(f"{' and '.join(names)} are of a word list: name --word_list or --top_words")


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)


def _some(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise InputError(
            "no span of the train split is kept: its words are not in the list, or its documents are "
            "shorter than spans.min_words; give a longer list, or smaller spans.window and spans.min_words"
        )
