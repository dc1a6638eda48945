"""Text to a corpus folder: the command `rankbound prepare`.

Everything is written into a temporary folder beside the output, which is renamed at the end: an
output is whole or absent, and what stands there already is never touched.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rankbound.corpora.build import build
from rankbound.corpora.corpus import CARD, Corpus, Settings
from rankbound.corpora.sources import open_source
from rankbound.corpora.tokenizer import SMALLEST_VOCABULARY
from rankbound.errors import InputError


def prepare(
    corpus: str = "sotu",
    vocab_size: int = 4096,
    output: Path | None = None,
    *,
    valid_share: float = 0.05,
    seed: int = 0,
    document_separator: str | None = None,
    errors: Literal["strict", "replace"] = "strict",
) -> Corpus:
    """Turn text into a corpus folder: tokenizer, packed tokens, data card.

    Args:
        corpus: The State of the Union addresses (sotu), a .txt file, or a folder of them.
        vocab_size: Tokens of the byte-level BPE, from 257 up.
        output: Folder to make; data/<corpus>-<vocab_size> by default.
        valid_share: Share of the text to hold out for validation.
        seed: Chooses which documents are held out.
        document_separator: String between the documents of a file, such as <|endoftext|>.
        errors: Refuse bytes that are not UTF-8 (strict) or put U+FFFD in their place (replace).

    Returns:
        The corpus; one that was made from the same inputs and settings is returned as it is.

    Raises:
        InputError: No text, a setting the text cannot meet, or an output that holds something else.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"vocab_size {vocab_size} is too small: 256 bytes and the end of text make "
            f"{SMALLEST_VOCABULARY} tokens at least"
        )
    if not 0 < valid_share < 1:
        raise InputError(f"valid_share {valid_share} is no share: choose one between 0 and 1")
    if document_separator == "":
        raise InputError("document_separator is empty: leave it out or give at least one character")
    source = open_source(corpus, errors)
    settings = Settings(vocab_size, valid_share, seed, document_separator, errors)
    output = Path("data", f"{source.name}-{vocab_size}") if output is None else Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        return _already_prepared(output, source.inputs(), settings)
    with _new_folder(output) as folder:
        build(folder, source, settings)
    made = Corpus(output)
    _announce(made)
    return made


def _already_prepared(output: Path, inputs: dict[str, str], settings: Settings) -> Corpus:
    """Open what stands at `output`; anything but the corpus asked for is refused and left alone."""
    if not (output / CARD).is_file():
        raise InputError(f"{output} exists and is not a corpus: remove it or name another --output")
    corpus = Corpus(output)
    found = {"text": corpus.card.inputs, **asdict(corpus.card.settings)}
    wanted = {"text": inputs, **asdict(settings)}
    if differing := [name for name in wanted if found[name] != wanted[name]]:
        raise InputError(
            f"{output} holds a corpus of another {', '.join(differing)}: remove it or name another --output"
        )
    corpus.verify()
    print(f"{output}: already prepared")
    return corpus


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `output`, or vanishes if anything fails."""
    target = output.absolute()
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}; mend that or name another "
            "--output, nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _announce(corpus: Corpus) -> None:
    card = corpus.card
    print(f"{corpus.path}: {card.source}, {card.vocab_size} tokens in the vocabulary")
    for name, split in card.splits.items():
        print(
            f"  {name}: {split.documents:,} documents, {split.words:,} words, "
            f"{split.tokens:,} tokens of {split.bytes_per_token:.2f} bytes"
        )
    print(f"  unigram entropy: {card.unigram_entropy:.3f} nats a token")
