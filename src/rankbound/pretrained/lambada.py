"""LAMBADA: the last word of a passage that only the whole passage gives away (Paperno et al. 2016).

The word begins after the passage's last space and is scored with that space. `accuracy`: every token of it
is the model's likeliest; `perplexity`: exp of the mean over words of their whole negative log-likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from rankbound.errors import InputError
from rankbound.pretrained.rows import Row, files, hub_rows, local_rows
from rankbound.pretrained.scores import Figure, mean_and_stderr
from rankbound.pretrained.scoring import BATCH_TOKENS, Progress, score, silent
from rankbound.pretrained.texts import TextModel

LAMBADA = "LAMBADA"


def read_passages(source: str, limit: int | None = None) -> list[tuple[str, str]]:
    """(context, last word with its space) of each passage of a file, a folder or a dataset on the hub."""
    if found := files(source, "lambada"):
        rows: Iterator[Row] = (row for file in found for row in local_rows(file, ("text",)))
    else:
        rows = hub_rows(source, None, ("text",), "lambada")
    pairs = []
    for row in islice(rows, limit):
        context, space, word = row["text"].rpartition(" ")
        if not space or not word:
            raise InputError(f"lambada {source} has a passage without a last word: {row['text'][-40:]!r}")
        pairs.append((context, space + word))
    return pairs


def lambada(
    model: TextModel,
    passages: list[tuple[str, str]],
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[Figure]:
    """`accuracy` and `perplexity` of last words; a context too long for the model loses its beginning."""
    scores = score(
        model.model,
        model.continuations(passages),
        model.context,
        batch_tokens=batch_tokens,
        greedy=True,
        progress=progress,
    )
    hits = np.array([float(bool(s.greedy)) for s in scores])
    nats, error = mean_and_stderr(np.array([-s.total for s in scores]))
    perplexity = math.exp(min(nats, 700.0))
    return [
        Figure(LAMBADA, "accuracy", *mean_and_stderr(hits), len(hits)),
        Figure(LAMBADA, "perplexity", perplexity, perplexity * error, len(hits)),
    ]
