"""Minimal pairs: does the model find the acceptable sentence likelier than its unacceptable twin?

Both sentences are scored whole, as BLiMP does (Warstadt et al. 2020). Sentences that a tokenizer cannot
tell apart are as likely as each other: such a pair counts a half, not a whole as where the first wins ties.
The mean difference in nats stands beside the accuracy: it moves where accuracy still stands at chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rankbound.errors import InputError
from rankbound.pretrained.rows import Row, files, hub_rows, hub_subsets, local_rows
from rankbound.pretrained.scores import Figure, macro_average, mean_and_stderr
from rankbound.pretrained.scoring import BATCH_TOKENS, Progress, score, silent
from rankbound.pretrained.texts import TextModel

FIELDS = ("sentence_good", "sentence_bad")
BLIMP = "BLiMP"


@dataclass(frozen=True)
class Paradigm:
    """Pairs (acceptable, unacceptable) that test one contrast."""

    name: str
    pairs: list[tuple[str, str]]


def read_paradigms(source: str, limit: int | None = None) -> list[Paradigm]:
    """Paradigms by name: a file each of a folder, one file, or a dataset's subsets on the hub.

    Args:
        source: a path, or a Hugging Face id such as nyu-mll/blimp.
        limit: the first so many pairs of each.

    Raises:
        InputError: nothing there, or a row without both sentences.
    """
    if found := files(source, "blimp"):
        rows: dict[str, Iterable[Row]] = {file.stem: local_rows(file, FIELDS) for file in found}
    else:
        subsets = hub_subsets(source, "blimp")
        rows = {name: hub_rows(source, name, FIELDS, "blimp") for name in subsets}
    return [
        Paradigm(name, [(row[FIELDS[0]], row[FIELDS[1]]) for row in islice(own, limit)])
        for name, own in rows.items()
    ]


def minimal_pairs(
    model: TextModel,
    paradigms: list[Paradigm],
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[Figure]:
    """Of each paradigm `accuracy` and `difference` (log p(good) - log p(bad), nats), then their averages.

    The average over paradigms has the task `BLiMP`, and `ties` counts pairs that scored alike, if any.
    """
    if not paradigms:
        raise InputError("there are no minimal pairs to score")
    sentences = [sentence for p in paradigms for pair in p.pairs for sentence in pair]
    scores = score(
        model.model, model.documents(sentences), model.context, batch_tokens=batch_tokens, progress=progress
    )
    good, bad = np.array([s.total for s in scores]).reshape(-1, 2).T
    difference = good - bad
    correct = np.where(_alike(good, bad), 0.5, (difference > 0).astype(float))
    ends = np.cumsum([len(p.pairs) for p in paradigms])[:-1]
    figures = []
    for metric, values in (("accuracy", correct), ("difference", difference)):
        own = [
            Figure(paradigm.name, metric, *mean_and_stderr(part), len(part))
            for paradigm, part in zip(paradigms, np.split(values, ends), strict=True)
        ]
        average = macro_average(np.array([f.value for f in own]), np.array([f.stderr for f in own]))
        figures += [*own, Figure(BLIMP, metric, *average, len(own))]
    if ties := int(_alike(good, bad).sum()):
        figures.append(Figure(BLIMP, "ties", ties, float("nan"), len(good)))
    return figures


def _alike(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Equal to rounding: the same tokens may have been scored in batches of different shapes."""
    alike: np.ndarray = np.isclose(good, bad, rtol=1e-6, atol=1e-6)
    return alike
