"""Text to a corpus folder: the command `rankbound prepare`.

Design decisions:
- Everything is written into a working folder beside the output, `.NAME.partial`, and the whole corpus is
  renamed at the end: an output is whole or absent, and what stands there already is never touched.
- A process that is killed leaves the working folder, and the same command goes on there. Wrong input and
  full disks leave nothing.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal

from rankbound.corpora.build import build
from rankbound.corpora.corpus import CARD, Corpus, Settings, contents
from rankbound.corpora.disk import locked, write
from rankbound.corpora.sources import UnfinishedError, open_source
from rankbound.corpora.spans import SpanRules
from rankbound.corpora.split import SPLITS
from rankbound.corpora.vocabulary import open_vocabulary
from rankbound.corpora.word_list import WordRules
from rankbound.errors import InputError

_JOB = "job.json"
_WORDS, _SPANS = WordRules(), SpanRules()


def prepare(
    corpus: str = "sotu",
    vocab_size: int = 4096,
    output: Path | None = None,
    *,
    text_field: str = "text",
    subset: str | None = None,
    split: str = "train",
    max_documents: int | None = None,
    document_separator: str | None = None,
    errors: Literal["strict", "replace", "skip"] = "strict",
    deduplicate: bool = True,
    valid_share: float = 0.05,
    test_share: float = 0.0,
    seed: int = 0,
    tokenizer_bytes: int = 1 << 26,
    processes: int | None = None,
    overwrite: bool = False,
    tokenizer: str = "bpe",
    end_of_text: str | None = None,
    word_list: Path | None = None,
    top_words: int | None = None,
    words: WordRules = _WORDS,
    spans: SpanRules = _SPANS,
    control: bool = False,
    tokens_only_top: int | None = None,
) -> Corpus:
    """Turn text into a corpus folder: tokenizer, packed tokens, data card.

    Killed, the same call goes on where it stopped; the bytes are those of an undisturbed one.

    Args:
        corpus: The State of the Union addresses (sotu); a .txt, .md, .jsonl, .csv or .parquet file, all but
            the last also as .gz or .zst; a folder or a quoted pattern of such files; or a Hugging Face
            dataset as owner/name.
        vocab_size: Tokens to train, from 64 up; below 257 the bytes are folded. One from elsewhere has
            its own size.
        output: Folder to make; by default in data, named after the corpus and what makes the vocabulary.
        text_field: Field or column of the text in JSONL, CSV, Parquet and Hugging Face datasets.
        subset: Configuration of a Hugging Face dataset.
        split: Split of a Hugging Face dataset to read.
        max_documents: Read no more than so many.
        document_separator: String between the documents of a text, such as <|endoftext|>.
        errors: Refuse what cannot be read, such as bytes that are not UTF-8 or a broken line (strict), put
            U+FFFD in the place of such bytes (replace), or leave such documents out and count them (skip).
        deduplicate: Keep the first of documents that are exactly the same.
        valid_share: Share of the text to hold out for validation.
        test_share: Share of the text to hold out for testing; none by default.
        seed: Chooses which documents are held out.
        tokenizer_bytes: Train the tokenizer on about so many bytes of the train split at most.
        processes: Processes that encode; by default one a core, 4 at most, where there is work for all.
            The result does not depend on it.
        overwrite: Replace a corpus of other settings or text at the output.
        tokenizer: Byte pairs (bpe), unigram pieces (unigram) or words with one id for all unknown ones
            (word), trained on the train split; or one from elsewhere: a tokenizer.json, its folder, or
            a Hugging Face id.
        end_of_text: Token of a tokenizer from elsewhere that ends a document, if it is an unusual one.
        word_list: Keep only spans of text whose every word is in this file: one a line, or the column
            word of a .csv.
        top_words: Keep only spans of so many words, the most frequent of the train split.
        words: How a text is read as words, for word_list and top_words.
        spans: Which spans are looked at, for word_list and top_words.
        control: Instead of the spans kept, as many tokens of any words from the same documents.
        tokens_only_top: Keep so many ids, the most frequent; rarer tokens become one unknown token.

    Returns:
        The corpus; one that was made from the same inputs and settings is returned as it is.

    Raises:
        InputError: No text, a setting the text cannot meet, or an output that holds something else.
    """
    given = locals() | {"word_list": None if word_list is None else Path(word_list).name}
    _check_settings(valid_share, test_share, max_documents)
    if tokenizer_bytes < 1 or (processes is not None and processes < 1):
        raise InputError("tokenizer_bytes and processes must be at least 1")
    settings = Settings(**{setting.name: given[setting.name] for setting in fields(Settings)})
    return _prepared(corpus, output, settings, word_list, processes, overwrite)


def _prepared(
    corpus: str,
    output: Path | None,
    settings: Settings,
    word_list: Path | None,
    processes: int | None,
    overwrite: bool,
) -> Corpus:
    """The corpus of these settings, made where it is not there yet."""
    vocabulary = open_vocabulary(settings, None if word_list is None else Path(word_list))
    source = open_source(corpus, settings.reading)
    output = Path("data", f"{source.name}-{vocabulary.name}") if output is None else Path(output)
    inputs = source.inputs() | vocabulary.inputs()
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        wrong = _differs(output, inputs, settings)
        if wrong is None:
            print(f"{output}: already prepared")
            return Corpus(output)
        if not overwrite:
            raise wrong
        _check_replaceable(output)
    with _working_folder(output, inputs, settings) as work:
        folder = work / "corpus"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        build(folder, work, source, inputs, settings, processes, vocabulary)
        _put(folder, output.absolute())
    made = Corpus(output)
    _announce(made)
    return made


def _check_settings(valid_share: float, test_share: float, max_documents: int | None) -> None:
    if not 0 < valid_share < 1:
        raise InputError(f"valid_share {valid_share} is no share: choose one between 0 and 1")
    if not 0 <= test_share < 1 - valid_share:
        raise InputError(
            f"test_share {test_share} beside valid_share {valid_share}: that leaves no text to train on"
        )
    if max_documents is not None and max_documents < 1:
        raise InputError(f"max_documents {max_documents} is no number of documents: choose at least 1")


def _differs(output: Path, inputs: dict[str, str], settings: Settings) -> InputError | None:
    """Why what stands at `output` is not the corpus asked for; None where it is, whole and sound."""
    if not (output / CARD).is_file():
        raise InputError(f"{output} exists and is not a corpus: remove it or name another --output")
    try:
        corpus = Corpus(output)
        found = {"text": corpus.card.inputs, **asdict(corpus.card.settings)}
        wanted = {"text": inputs, **asdict(settings)}
        if differing := [name for name in wanted if found[name] != wanted[name]]:
            return InputError(
                f"{output} holds a corpus of another {', '.join(differing)}: name another --output, or "
                "replace it with --overwrite true"
            )
        corpus.verify()
    except InputError as damage:
        return damage
    return None


def _check_replaceable(output: Path) -> None:
    strange = {path.name for path in output.iterdir()} - {CARD, *contents(SPLITS)}
    if strange:
        raise InputError(
            f"{output} also holds {', '.join(sorted(strange))}, which no corpus does: move that "
            "away, or name another --output"
        )


@contextmanager
def _working_folder(output: Path, inputs: dict[str, str], settings: Settings) -> Iterator[Path]:
    """Yield the folder of this job beside `output`, with what an interrupted start left there."""
    target = output.absolute()
    work = target.with_name(f".{target.name}.partial")
    job = json.dumps({"inputs": inputs, "settings": asdict(settings)}).encode()
    try:
        with locked(work, str(output)):
            if not _holds(work, job):
                _empty(work)
                write(work / _JOB, [job])
            try:
                yield work
            except UnfinishedError:
                raise
            except (InputError, OSError):
                shutil.rmtree(work, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}; mend that or name another "
            "--output, nothing was left behind"
        ) from error


def _holds(work: Path, job: bytes) -> bool:
    with suppress(FileNotFoundError):
        return (work / _JOB).read_bytes() == job
    return False


def _empty(work: Path) -> None:
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _put(folder: Path, target: Path) -> None:
    """Rename a whole corpus to where it belongs; what it replaces goes only then."""
    if target.is_dir() and any(target.iterdir()):
        old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old)
    else:
        folder.rename(target)


def _announce(corpus: Corpus) -> None:
    card = corpus.card
    print(f"{corpus.path}: {card.source}, {card.vocab_size} tokens in the vocabulary")
    if dropped := ", ".join(f"{number:,} {what}" for what, number in card.dropped.items() if number):
        print(f"  left out: {dropped}")
    for name, split in card.splits.items():
        print(
            f"  {name}: {split.documents:,} documents, {split.words:,} words, "
            f"{split.tokens:,} tokens of {split.bytes_per_token:.2f} bytes"
        )
    if kept := card.word_list:
        train = kept.counts["train"]
        print(
            f"  {kept.words:,} listed words cover {train['coverage']:.1%} of the train split's, spans of "
            f"them {train['share_kept']:.1%}; a listed word takes {kept.splits.tokens_per_word:.2f} tokens"
        )
    if unknown := card.splits["train"].unknown:
        print(f"  unknown: {unknown / card.splits['train'].tokens:.2%} of the train split's tokens")
    print(f"  unigram entropy: {card.unigram_entropy:.3f} nats a token, bigram {card.bigram_entropy:.3f}")
