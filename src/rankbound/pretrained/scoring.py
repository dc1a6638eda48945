"""Log-probabilities of tokens under any model, many texts at a time.

Design decisions:
- What texts begin with in common is read once (`packing.py`).
- Only the scored positions reach the head: of a LAMBADA passage one word does, not eighty.
- Everything goes through the head's `nll`, or its `log_prob` where the greedy choice is asked for, so a
  mixture is scored like a softmax.
- A text longer than the model reads goes in windows that slide by `stride`; every token is scored once, and
  from the second window on it has at least `context - stride` tokens before it.

Shapes: B rows of a batch, T tokens, D hidden size, N scored tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.errors import InputError
from rankbound.heads import Head
from rankbound.model.tree import TokenTree
from rankbound.pretrained.packing import Row, Window, batches, targets, together
from rankbound.training.language_model import LanguageModel

BATCH_TOKENS = 4096
# Logits at once: on a CPU a chunk that stays in the cache takes 0.6 of the time of one that does not, but
# one of few rows would read the head's matrix too often.
CPU_LOGITS, GPU_LOGITS, FEWEST_ROWS = 2**20, 2**26, 128

#: Called with the tokens scored so far and in all.
Progress = Callable[[int, int], object]


def silent(done: int, total: int) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class Piece:
    """Tokens, of which those from `scored_from` on are scored; the first has nothing before it."""

    ids: Sequence[int]
    scored_from: int = 1

    def __post_init__(self) -> None:
        if self.scored_from < 1:
            raise InputError("the first token of a text has no context: scored_from must be at least 1")


class Score(NamedTuple):
    """`log_prob` (scored tokens,) float64 in nats, and whether each was the likeliest (else None)."""

    log_prob: NDArray[np.float64]
    greedy: bool | None

    @property
    def total(self) -> float:
        return float(self.log_prob.sum())


def score(
    model: LanguageModel,
    pieces: Sequence[Piece],
    context: int,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    greedy: bool = False,
    progress: Progress = silent,
) -> list[Score]:
    """Score every piece.

    Args:
        model: in evaluation mode, on any device.
        pieces: what to score; one without a scored token gives an empty score.
        context: tokens that the model reads at once.
        stride: how far windows of a longer piece slide, half the context if not given.
        batch_tokens: padded tokens of a batch; a window longer than that is a batch of its own.
        greedy: also ask whether every scored token is the likeliest.
        progress: called after each batch with the tokens scored so far and in all.

    Raises:
        InputError: a token that the model does not have, or a log-probability that is no number.
    """
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise InputError(f"stride is {stride}; it must be from 1 to the model's context, {context}")
    _check_tokens(model, pieces)
    windows = (w for i, piece in enumerate(pieces) for w in sliding(i, piece, context, stride))
    log_prob = [np.zeros(max(len(piece.ids) - piece.scored_from, 0)) for piece in pieces]
    right = [True if greedy else None for _ in pieces]
    done, total = 0, sum(len(values) for values in log_prob)
    for batch in batches(windows, [piece.ids for piece in pieces], batch_tokens):
        for window, values, hit in _score_batch(model, batch, greedy):
            first = window.fresh + 1 - pieces[window.piece].scored_from
            log_prob[window.piece][first : first + len(values)] = values
            if greedy:
                right[window.piece] = bool(right[window.piece] and hit.all())
            done += len(values)
        progress(done, total)
    return [Score(values, hit) for values, hit in zip(log_prob, right, strict=True)]


def sliding(number: int, piece: Piece, context: int, stride: int) -> Iterator[Window]:
    """The windows of a piece: the first as full as it can be, each further one `stride` inputs on."""
    inputs, fresh = len(piece.ids) - 1, piece.scored_from - 1
    end = min(inputs, max(context, fresh + stride))
    while fresh < inputs:
        yield Window(number, max(0, end - context), fresh, end)
        fresh, end = end, min(inputs, end + stride)


@torch.inference_mode()
def _score_batch(
    model: LanguageModel, batch: Sequence[Row], greedy: bool
) -> Iterator[tuple[Window, NDArray[np.float64], NDArray[np.bool_]]]:
    """Each window's log-probabilities of its scored tokens, and whether each was the likeliest."""
    device = model.body.embedding.weight.device
    wanted = targets(batch)
    inputs = together(batch).to(device)
    hidden_BTD = model.body.read_tree(inputs) if isinstance(inputs, TokenTree) else model.body(inputs)
    hidden_ND = hidden_BTD.flatten(0, 1)[wanted.state.to(device)]
    log_prob_N, hit_N = _head_scores(model.head, hidden_ND, wanted.token.to(device), greedy)
    if log_prob_N.isnan().any():
        raise InputError("the model gives log-probabilities that are no numbers (NaN): are its weights?")
    log_prob = log_prob_N.double().cpu().numpy()[wanted.of_windows]
    hits = hit_N.cpu().numpy()[wanted.of_windows]
    end = 0
    for row in batch:
        for window in row.windows:
            start, end = end, end + window.end - window.fresh
            yield window, log_prob[start:end], hits[start:end]


def _head_scores(head: Head, hidden_ND: Tensor, target_N: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
    """(N,) log-probability of each target and whether it is the likeliest, in chunks of rows."""
    budget = CPU_LOGITS if hidden_ND.device.type == "cpu" else GPU_LOGITS
    chunk = max(FEWEST_ROWS, budget // head.logits_per_token)
    parts = []
    for hidden, target in zip(torch.split(hidden_ND, chunk), torch.split(target_N, chunk), strict=True):
        if greedy:
            log_prob_NV = head.log_prob(hidden)
            parts.append((log_prob_NV.gather(1, target[:, None])[:, 0], log_prob_NV.argmax(1) == target))
        else:
            parts.append((-head.nll(hidden, target), torch.ones_like(target, dtype=torch.bool)))
    log_probs, hits = zip(*parts, strict=True)
    return torch.cat(log_probs), torch.cat(hits)


def _check_tokens(model: LanguageModel, pieces: Sequence[Piece]) -> None:
    size = model.body.embedding.num_embeddings
    for largest in (max(piece.ids) for piece in pieces if len(piece.ids)):
        if largest >= size:
            raise InputError(
                f"the tokenizer gives token {largest} and the model has {size}: they do not belong together"
            )
