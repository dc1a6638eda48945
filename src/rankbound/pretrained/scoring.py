"""Log-probabilities of tokens under any model, many texts at a time.

Design decisions:
- Texts of like length share a batch, padded on the right: attention is causal, so no state that is scored
  ever sees the padding.
- Only the scored positions reach the head: of a LAMBADA passage one word does, not eighty.
- Everything goes through the head's `nll`, or its `log_prob` where the greedy choice is asked for, so a
  mixture is scored like a softmax.
- A text longer than the model reads goes in windows that slide by `stride`; every token is scored once, and
  from the second window on it has at least `context - stride` tokens before it.

Shapes: B texts of a batch, T tokens, D hidden size, N scored positions of a batch.
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
from rankbound.training.language_model import LanguageModel

BATCH_TOKENS = 2048
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


class Window(NamedTuple):
    """Inputs `start` to `end` of a piece, those from `fresh` on scored; input i predicts token i + 1."""

    piece: int
    start: int
    fresh: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


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
    windows = [w for i, piece in enumerate(pieces) for w in sliding(i, piece, context, stride)]
    log_prob = [np.zeros(max(len(piece.ids) - piece.scored_from, 0)) for piece in pieces]
    right = [True if greedy else None for _ in pieces]
    done, total = 0, sum(len(values) for values in log_prob)
    for batch in batches(windows, batch_tokens):
        rows, hits = _score_batch(model, pieces, batch, greedy)
        for window, values, hit in zip(batch, rows, hits, strict=True):
            first = window.fresh + 1 - pieces[window.piece].scored_from
            log_prob[window.piece][first : first + len(values)] = values
            if greedy:
                right[window.piece] = bool(right[window.piece] and hit.all())
        done += sum(len(values) for values in rows)
        progress(done, total)
    if any(np.isnan(values).any() for values in log_prob):
        raise InputError("the model gives log-probabilities that are no numbers (NaN): are its weights?")
    return [Score(values, hit) for values, hit in zip(log_prob, right, strict=True)]


def sliding(number: int, piece: Piece, context: int, stride: int) -> Iterator[Window]:
    """The windows of a piece: the first as full as it can be, each further one `stride` inputs on."""
    inputs, fresh = len(piece.ids) - 1, piece.scored_from - 1
    end = min(inputs, max(context, fresh + stride))
    while fresh < inputs:
        yield Window(number, max(0, end - context), fresh, end)
        fresh, end = end, min(inputs, end + stride)


def batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows by length, longest first, as many at once as stay within `batch_tokens` when padded."""
    ordered = sorted(windows, key=lambda window: -window.length)
    batch: list[Window] = []
    for window in ordered:
        if batch and (len(batch) + 1) * batch[0].length > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


@torch.inference_mode()
def _score_batch(
    model: LanguageModel, pieces: Sequence[Piece], batch: Sequence[Window], greedy: bool
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.bool_]]]:
    """Log-probabilities of each window's scored tokens, and whether each was the likeliest."""
    shape = len(batch), batch[0].length
    tokens_BT, targets_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    scored_BT = np.zeros(shape, np.bool_)
    for row, window in enumerate(batch):
        ids = pieces[window.piece].ids[window.start : window.end + 1]
        tokens_BT[row, : window.length], targets_BT[row, : window.length] = ids[:-1], ids[1:]
        scored_BT[row, window.fresh - window.start : window.length] = True
    device = model.body.embedding.weight.device
    hidden_BTD = model.body(torch.from_numpy(tokens_BT).to(device))
    hidden_ND = hidden_BTD[torch.from_numpy(scored_BT).to(device)]
    target_N = torch.from_numpy(targets_BT[scored_BT]).to(device)
    log_prob_N, hit_N = _head_scores(model.head, hidden_ND, target_N, greedy)
    counts = scored_BT.sum(1).tolist()
    return (
        [part.numpy() for part in torch.split(log_prob_N.double().cpu(), counts)],
        [part.numpy() for part in torch.split(hit_N.cpu(), counts)],
    )


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
