"""A language used as a corpus: a folder that holds its card and no text.

    corpus.json      name and settings of the language, its entropy, floors that were solved

Design decisions:
- The card is what decides; text is made as it is read, a window from its index (`language_data`), so no two
  steps of training ever see the same one, and the valid split is the same for every run.
- Opening reads the card alone; the language is built when text is asked for, and must then be the one that
  the card names.
- `Generated` has what training reads of a `Corpus`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankbound.corpora.corpus import CARD, Corpus
from rankbound.errors import InputError

if TYPE_CHECKING:  # a card is read without PyTorch
    from rankbound.corpora.languages import Language


@dataclass(frozen=True)
class LanguageCard:
    """What the corpus.json of a language says; entropies in nats a token.

    - `language`, `settings`: the class and its arguments
    - `language_sha256`: the language's own hash
    - `entropy`: what no model can go below; `entropy_error` its standard error, 0 where it is exact
    - `unigram_entropy`: of a model that knows the frequencies and nothing else
    - `valid_tokens`: size of the valid split
    - `floors`: solved floors of linear heads, as `Floor` has them
    - `corpus_sha256`: of the language and the valid split's size
    """

    language: str
    settings: dict[str, Any]
    language_sha256: str
    description: str
    vocab_size: int
    entropy: float
    entropy_error: float
    unigram_entropy: float
    valid_tokens: int
    floors: list[dict[str, Any]]
    corpus_sha256: str


class Generated:
    """Opens a language's folder; raises `InputError` where the card is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.card = LanguageCard(**json.loads((self.path / CARD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.path / CARD} is damaged or of another version: remove {self.path} and make it "
                "again with rankbound language"
            ) from error

    @property
    def vocab_size(self) -> int:
        return self.card.vocab_size

    @property
    def sha256(self) -> str:
        """The name of the language and its valid split."""
        return self.card.corpus_sha256

    @property
    def token_bytes(self) -> NDArray[np.int32]:
        """Zeros, (V,): the tokens stand for no text."""
        return np.zeros(self.vocab_size, dtype=np.int32)

    @cached_property
    def language(self) -> Language:
        """The language, built from its settings."""
        from rankbound.corpora.languages import language_class

        return language_class(self.card.language)(**self.card.settings)

    def verify(self) -> None:
        """Build the language; `InputError` where it is not the one on the card."""
        if self.language.sha256 != self.card.language_sha256:
            raise InputError(
                f"{self.path / CARD} names another language than its settings make now: remove {self.path} "
                "and make it again with rankbound language"
            )

    def with_floors(self, floors: list[dict[str, Any]]) -> None:
        """Put floors on the card, over those of the same class."""
        classes = [_class(floor) for floor in floors]
        kept = [floor for floor in self.card.floors if _class(floor) not in classes]
        merged = sorted([*kept, *floors], key=_class)
        self.card = LanguageCard(**{**asdict(self.card), "floors": merged})
        write_card(self.path, self.card)

    def floor(self, rank: int, norm: str, bias: bool) -> dict[str, Any] | None:
        """The solved floor of a class of linear heads; None where the card has none."""
        found = [floor for floor in self.card.floors if _class(floor) == (norm, bias, rank)]
        return found[0] if found else None


def open_corpus(path: str | Path) -> Corpus | Generated:
    """Open what `rankbound prepare` or `rankbound language` made."""
    card = Path(path) / CARD
    try:
        generated = "language" in json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        generated = False
    return Generated(path) if generated else Corpus(path)


def card_of(language: Language, valid_tokens: int) -> LanguageCard:
    """The card of a language, without floors."""
    digest = hashlib.sha256(f"{language.sha256} {valid_tokens}".encode())
    return LanguageCard(
        language=type(language).__name__,
        settings=dict(language.settings),
        language_sha256=language.sha256,
        description=language.description,
        vocab_size=language.vocab_size,
        entropy=language.entropy,
        entropy_error=language.entropy_error,
        unigram_entropy=language.unigram_entropy,
        valid_tokens=valid_tokens,
        floors=[],
        corpus_sha256=digest.hexdigest(),
    )


def write_card(folder: Path, card: LanguageCard) -> None:
    """Write the card so that a reader sees all of it or none."""
    partial = folder / f".{CARD}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / CARD)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}; mend that or name another --output"
        ) from error


def _class(floor: dict[str, Any]) -> tuple[str, bool, int]:
    return floor["norm"], floor["bias"], floor["rank"]
