"""How many nats a token and bits a byte a model needs for texts.

Each document is scored on its own after the model's end of text; not the run's `valid/loss`, which reads
windows packed across documents and pays for the end of each. Bits per byte divides by the UTF-8 bytes of
what is scored and compares across tokenizers; an unknown word costs one token whatever its length, which
flatters tokenizers that have such a token, so their share is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from rankbound.corpora.sources import Reading, open_source, read_documents
from rankbound.errors import InputError
from rankbound.pretrained.scores import Figure, ratio_and_stderr
from rankbound.pretrained.scoring import BATCH_TOKENS, Progress, score, silent
from rankbound.pretrained.texts import TextModel

UNKNOWN = ("<unk>", "<|unk|>", "[UNK]")


def read_texts(source: str, reading: Reading, limit: int | None = None) -> list[str]:
    """The first `limit` documents of a source, as `rankbound prepare` reads them."""
    documents = read_documents(open_source(source, reading), reading, Counter())
    texts = [document.text for document in islice(documents, limit)]
    if not texts:
        raise InputError(f"text {source} holds no text")
    return texts


def code_length(
    name: str,
    model: TextModel,
    texts: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[Figure]:
    """`nats_per_token`, `bits_per_byte` and `unknown_share` (where there are any) of documents.

    Standard errors take documents as independent.
    """
    pieces = model.documents(texts)
    scores = score(model.model, pieces, model.context, batch_tokens=batch_tokens, progress=progress)
    nats = np.array([-s.total for s in scores])
    tokens = np.array([float(len(s.log_prob)) for s in scores])
    size = np.array([float(len(text.encode())) for text in texts])
    if not model.start:  # the first token is not scored
        size -= [len(model.decode(piece.ids[:1]).encode()) for piece in pieces]
    if not tokens.sum() or size.sum() <= 0:
        raise InputError(f"text {name} has no token to score")
    figures = [
        Figure(name, "nats_per_token", *ratio_and_stderr(nats, tokens), int(tokens.sum())),
        Figure(name, "bits_per_byte", *ratio_and_stderr(nats / math.log(2), size), int(size.sum())),
    ]
    unknown = {model.tokenizer.token_to_id(token) for token in UNKNOWN} - {None}
    share = np.mean([i in unknown for piece in pieces for i in piece.ids[len(model.start) :]])
    return (
        [*figures, Figure(name, "unknown_share", float(share), math.nan, len(texts))] if share else figures
    )
