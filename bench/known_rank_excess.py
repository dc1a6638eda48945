"""How far a trained model is from the language it was trained on, with no sampled target in it.

    excess = sum_c pi_c mean_{t: x_t = c} KL(P_c | p(. | x_1 .. x_t))

- Contexts c are single tokens and P_c is exact. A model may look at earlier tokens too, to no use; its
  divergence is averaged over the places where c stands in the valid split, then weighted by pi_c, the
  language's own frequency. What chance is left is which tokens stood before.
- The few contexts that the valid split lacks are left out and the weights rescaled; their share is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankbound.corpora.generated import Generated
from rankbound.corpora.language_data import GeneratedWindows
from rankbound.training.language_model import LanguageModel

_ROWS = 64  # windows at once


@torch.no_grad()
def exact_excess(model: LanguageModel, corpus: Generated, window: int) -> tuple[float, float]:
    """Nats a token over the entropy, and the frequency of contexts that were not met."""
    windows = GeneratedWindows(corpus, "valid", window, seed=0)
    vocab_size = corpus.vocab_size
    log_prob_CV = corpus.language.log_prob_after(torch.arange(vocab_size)[:, None])[:, 0]
    entropy_C = (log_prob_CV.exp() * log_prob_CV).sum(1)
    total_C = torch.zeros(vocab_size, dtype=torch.float64)
    count_C = torch.zeros_like(total_C)
    for indices in torch.split(torch.arange(len(windows)), _ROWS):
        tokens_BT, _ = windows[indices.numpy()]
        context_N = tokens_BT.flatten()
        log_q_NV = model(tokens_BT).flatten(0, 1).double()
        divergence_N = entropy_C[context_N] - cross(log_prob_CV, context_N, log_q_NV)
        total_C.index_add_(0, context_N, divergence_N)
        count_C += torch.bincount(context_N, minlength=vocab_size)
    met = count_C > 0
    weight_C = corpus.language.stationary.double() * met
    mean_C = total_C / count_C.clamp(min=1)
    return float(weight_C @ mean_C / weight_C.sum()), float(1 - weight_C.sum())


def cross(log_prob_CV: Tensor, context_N: Tensor, log_q_NV: Tensor) -> Tensor:
    """sum_v P_c(v) log q(v) at each row's context, (N,)."""
    return (log_prob_CV[context_N].exp() * log_q_NV).sum(1)
