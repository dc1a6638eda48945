"""Training on a language whose every probability is known: excess loss, and what the head lets through.

In plain PyTorch: a body, a head, an optimiser and a loop. Contexts of `KnownRank` are single tokens, so one
layer is trunk enough and what is tested is the head.

Design decisions:
- Batches are drawn fresh and never repeated. Seeds differ in initial weights and in the text drawn; the
  language and the probe set are the same for all.
- The loss is taken under p* at each of the probe's contexts, so what is left of it over the language's
  entropy is the divergence KL(p* | p), without a sampled token in it.
- Both heads' retention is taken at the same contexts, by the closed form where there is one.
- The signal's share of the gradient's energy is of the expectation over the drawn token y at each context:
  E|p - y|^2 = |p - p*|^2 + 1 - |p*|^2.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankbound import heads
from rankbound.corpora.languages import KnownRank
from rankbound.heads import ChunkedLoss, Head, Linear
from rankbound.metrics import jacobian_retention, linear_retention
from rankbound.metrics.retention import Retained
from rankbound.model import GPT
from rankbound.runs import write_json
from rankbound.training.language_model import LanguageModel
from rankbound.training.optimizer import AdamW
from rankbound.training.schedules import Cosine
from rankbound.training.when import When

VOCAB_SIZE, RANK, TEMPERATURE = 512, 128, 2.0
SEQUENCES, LENGTH, STEPS = 16, 64, 600
LAYERS, ATTENTION_HEADS = 1, 4
PROBE_SEQUENCES, PROBE_ROWS, PROBE_STEP = 32, 128, 10**9  # a step that no seed reaches
SEED_STRIDE = 10**6  # texts of two seeds have no batch in common
WHEN = When(every=None)


@dataclass(frozen=True)
class Task:
    """One model: a head by class name with its settings, and what it is trained with."""

    head: str
    width: int
    seed: int
    rate: float
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.head}-d{self.width}-lr{self.rate:g}-seed{self.seed}"

    def made(self, hidden_size: int, vocab_size: int) -> Head:
        head: Head = getattr(heads, self.head)(hidden_size, vocab_size, **dict(self.settings))
        return head


@dataclass(frozen=True)
class Probe:
    """Tokens (B, T), those that followed (N,), log p* after each (N, V), rows for the gradient (R,)."""

    tokens: Tensor
    target: Tensor
    true_log_prob: Tensor
    rows: Tensor


@lru_cache
def language() -> KnownRank:
    return KnownRank(VOCAB_SIZE, RANK, temperature=TEMPERATURE)


@lru_cache
def probe() -> Probe:
    text = language().batch(PROBE_STEP, PROBE_SEQUENCES, LENGTH + 1)
    tokens_BT, target_N = text[:, :-1], text[:, 1:].flatten()
    generator = torch.Generator().manual_seed(0)
    rows_R = torch.randperm(len(target_N), generator=generator)[:PROBE_ROWS].sort().values
    return Probe(tokens_BT, target_N, language().log_prob[tokens_BT.flatten()], rows_R)


def run(task: Task, path: Path) -> None:
    """Train `task`, measuring on the way, and write what was found to `path`."""
    start = time.perf_counter()
    torch.manual_seed(task.seed)
    body = GPT(VOCAB_SIZE, task.width, num_hidden_layers=LAYERS, num_attention_heads=ATTENTION_HEADS)
    model = LanguageModel(body, task.made)
    optimizer = AdamW(learning_rate=task.rate).build(model)
    schedule, loss_of = Cosine(STEPS), ChunkedLoss(model.head)
    rows = [measure(model, 0)]
    for step in range(1, STEPS + 1):
        text = language().batch(task.seed * SEED_STRIDE + step, SEQUENCES, LENGTH + 1)
        loss = loss_of(model.body(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = task.rate * schedule(step - 1)
        optimizer.step()
        optimizer.zero_grad()
        if WHEN.due(step, STEPS):
            rows.append(measure(model, step))
    found = {
        "parameters": model.parameter_counts()["total"],
        "seconds": time.perf_counter() - start,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(task) | found | {"rows": rows})


@torch.no_grad()
def measure(model: LanguageModel, step: int) -> dict[str, float]:
    """What the figure shows, on the probe."""
    seen = probe()
    hidden_ND = model.body(seen.tokens).flatten(0, 1).double()
    head = copy.deepcopy(model.head).double().requires_grad_(False)
    log_prob_NV = head.log_prob(hidden_ND)
    excess, signal_share = against_truth(log_prob_NV, seen.true_log_prob)
    state_RD = hidden_ND[seen.rows]
    sampled = retention(head, state_RD, target=seen.target[seen.rows])
    signal = retention(head, state_RD, p_star=seen.true_log_prob[seen.rows].exp())
    width = hidden_ND.shape[1]
    return {
        "step": step,
        "excess": excess,
        "signal_share": signal_share,
        "sampled": float(sampled.relative(width, VOCAB_SIZE)),
        "sampled_error": row_error(sampled) * VOCAB_SIZE / width,
        "signal": float(signal.relative(width, VOCAB_SIZE)),
        "signal_error": row_error(signal) * VOCAB_SIZE / width,
    }


def against_truth(log_prob_NV: Tensor, true_log_prob_NV: Tensor) -> tuple[float, float]:
    """Mean KL(p* | p) in nats, and the signal's share of the expected energy of p - y."""
    true_NV, prob_NV = true_log_prob_NV.exp(), log_prob_NV.exp()
    excess = (true_NV * (true_log_prob_NV - log_prob_NV)).sum(1).mean()
    signal = (prob_NV - true_NV).square().sum()
    noise = (1 - true_NV.square().sum(1)).sum()
    return float(excess), float(signal / (signal + noise))


def retention(head: Head, state_ND: Tensor, **wanted: Tensor) -> Retained:
    if isinstance(head, Linear):
        return linear_retention(state_ND, head.weight, bias=head.bias, **wanted)
    return jacobian_retention(head.log_prob, state_ND, **wanted)


def row_error(retained: Retained) -> float:
    """Standard error of the share if the rows are a random sample: that of a ratio of two sums."""
    left = retained.kept - retained.share * retained.total
    return float(left.square().sum().sqrt() / retained.total.sum())
