"""The user's text as windows of tokens, and which document each target is of.

Design decisions:
- Documents are packed end to end, each after the model's end of text, and cut into windows that share one
  token, as in training.
- A target belongs to the document it is in. A window may hold states that have seen the end of another
  document: so they have in training.
- A prepared corpus is taken as it is where it was prepared with the model's own tokenizer; any other text
  is read as `rankbound prepare` reads it and cut into the model's own tokens.

Shapes: B windows, T tokens, N = B T.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.analysis.clusters import blocks_for
from rankbound.corpora.corpus import CARD, Corpus
from rankbound.corpora.data import TokenData
from rankbound.corpora.generated import Generated, open_corpus
from rankbound.corpora.sources import Reading
from rankbound.corpora.tokenizer import END_OF_TEXT, END_OF_TEXT_ID
from rankbound.errors import InputError
from rankbound.pretrained.code_length import read_texts
from rankbound.pretrained.subject import Subject

#: Longer windows cost more attention than they tell about a head.
LONGEST = 1024
_TEXTS = 64  # documents encoded at once
_SPELLED = (
    f"The text spells out {END_OF_TEXT}, read as ordinary text: if it parts documents, name it by "
    "--document_separator."
)


@dataclass(frozen=True)
class Text:
    """Tokens and the tokens that follow, (B, T) int64; documents (N,) numbered from 0 in order.

    - `units`: what the documents are, in words
    - `name`: of the text, in words
    - `note`: a sentence on what looks wrong with it, or nothing
    """

    tokens: Tensor
    targets: Tensor
    document: Tensor
    units: str
    name: str
    note: str = ""

    @property
    def size(self) -> int:
        return self.tokens.numel()


def windows_of(
    subject: Subject,
    corpus: str | None,
    tokens: int,
    window: int | None = None,
    reading: Reading | None = None,
) -> Text:
    """The first windows of a text, `tokens` tokens in all or as many as there are.

    Args:
        subject: whose tokens.
        corpus: a prepared corpus, or a text as `rankbound prepare` reads it; the run's own if not given.
        tokens: about so many targets.
        window: T; the model's context, 1,024 at most, if not given.
        reading: how a text that is no prepared corpus is read.

    Raises:
        InputError: no text, too little of it, a corpus with another tokenizer, a window that is too long.
    """
    longest = subject.context
    length = min(longest, LONGEST) if window is None else window
    if not 2 <= length <= longest:
        raise InputError(f"window is {length}; the model reads from 2 to {longest} tokens at once")
    if tokens < length:
        raise InputError(f"tokens is {tokens}; it must be at least one window of {length}")
    source = corpus or _own_corpus(subject)
    if (Path(source) / CARD).is_file():
        opened = open_corpus(source)
        if isinstance(opened, Generated):
            return _of_language(subject, opened, tokens, length)
        stream, document, name = _of_corpus(subject, opened, tokens)
        note = ""
    else:
        stream, document, note = _of_texts(subject, source, tokens, reading or Reading())
        name = Path(source).name if Path(source).exists() else source
    count = min(tokens, len(stream) - 1) // length
    if count < 1:
        raise InputError(f"{name} has {len(stream):,} tokens; a window of {length} needs {length + 1}")
    used = count * length
    ids = torch.from_numpy(stream[: used + 1].astype(np.int64))
    if int(ids.max()) >= subject.vocab_size:
        raise InputError(
            f"{name} has the token {int(ids.max())} and {subject.name} only {subject.vocab_size:,}: the "
            "tokenizer is of another model"
        )
    of_target = torch.from_numpy(document[1 : used + 1].astype(np.int64))
    numbered, units = blocks_for(of_target)
    return Text(ids[:-1].view(count, length), ids[1:].view(count, length), numbered, units, name, note)


def _own_corpus(subject: Subject) -> str:
    if subject.run is None:
        raise InputError(f"{subject.name} brings no text of its own: name one by --corpus")
    path = str(subject.run.config["data"]["corpus"])
    if not (Path(path) / CARD).is_file():
        raise InputError(f"the corpus {path} of {subject.name} is not here: name a text by --corpus")
    return path


def _of_corpus(
    subject: Subject, corpus: Corpus, tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    own = subject.run is not None and subject.run.config["data"].get("corpus_sha256") == corpus.sha256
    if not own and (
        corpus.card.kept_tokens is not None
        or subject.tokenizer is None
        or corpus.tokenizer.get_vocab() != subject.tokenizer.get_vocab()
    ):
        raise InputError(
            f"{corpus.path} was prepared with another tokenizer than that of {subject.name}: name the text "
            "itself by --corpus"
        )
    stream = np.asarray(corpus.tokens("valid")[: tokens + 1], np.int64)
    ended = np.concatenate([[0], (stream[:-1] == END_OF_TEXT_ID).cumsum()])
    return stream, ended, f"the valid split of {corpus.path}"


def _of_texts(
    subject: Subject, source: str, tokens: int, reading: Reading
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    if subject.tokenizer is None:
        raise InputError(f"{subject.name} comes without a tokenizer: add its tokenizer.json to the folder")
    stream: list[int] = []
    document: list[int] = []
    texts = read_texts(source, reading)
    for number, ids in enumerate(_encoded(subject, texts)):
        stream += ids
        document += [number] * len(ids)
        if len(stream) > tokens:
            break
    spelled = any(END_OF_TEXT in text for text in texts[: document[-1] + 1])
    return np.array(stream, np.int64), np.array(document, np.int64), _SPELLED if spelled else ""


def _encoded(subject: Subject, texts: list[str]) -> Iterator[list[int]]:
    assert subject.tokenizer is not None
    start = [] if subject.end_of_text is None else [subject.end_of_text]
    for first, last in pairwise([*range(0, len(texts), _TEXTS), len(texts)]):
        for found in subject.tokenizer.encode_batch_fast(texts[first:last], add_special_tokens=False):
            yield [*start, *found.ids]


def _of_language(subject: Subject, corpus: Generated, tokens: int, length: int) -> Text:
    if corpus.vocab_size != subject.vocab_size:
        raise InputError(
            f"{corpus.path} has {corpus.vocab_size:,} tokens and {subject.name} {subject.vocab_size:,}: it "
            "is the language of another model"
        )
    data = TokenData(str(corpus.path), window=length, batch_size=1)
    read, follow = data.probe(max(1, tokens // length), seed=0)
    document = torch.arange(len(read)).repeat_interleave(length)
    numbered, units = blocks_for(document)
    windows = units.replace("documents", "windows")
    return Text(read, follow, numbered, windows, f"the language {corpus.path}")
