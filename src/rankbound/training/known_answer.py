"""What is known of the best loss, where the text is a language's.

- `entropy`: nats a token that no model can go below.
- `true_loss`: what the language itself scores on the windows that are validated on. A model's excess is
  measured from it, not from the entropy: the luck of those windows is in both and cancels.
- `floor`: how far above that the best head of the run's class must stay, where the card has it solved.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from rankbound.corpora.generated import Generated
from rankbound.heads import Head
from rankbound.heads.linear import Factorized, Linear
from rankbound.model.norm import Norm
from rankbound.training.module import Pretraining


def known_answer(module: Pretraining, data: Any) -> dict[str, Any]:
    """What the card and the model's class say; empty for a text."""
    corpus = data.corpus
    if not isinstance(corpus, Generated):
        return {}
    sequences = module.total_steps * data.batch_size
    known = {
        "entropy": corpus.card.entropy,
        "true_loss": data.true_loss(),
        **corpus.language.confounders(sequences),
    }
    linear_class = floor_class(module.model.head, norm_kind(module.model.body.final_norm))
    floor = None if linear_class is None else corpus.floor(*linear_class)
    if floor is not None:
        known |= {"floor": floor["excess"], "floor_tolerance": floor["tolerance"]}
    return known


def norm_kind(norm: nn.Module) -> Norm:
    """The name of a norm that `norm_layer` made."""
    if isinstance(norm, nn.RMSNorm):
        return "rmsnorm"
    return "layernorm" if norm.bias is not None else "layernorm_without_shift"


def floor_class(head: Head, norm: Norm) -> tuple[int, str, bool] | None:
    """Width, norm and bias of the linear head that this one reads as; None where it is none.

    A narrower layer before the vocabulary takes states off the sphere that a norm puts them on, and its
    floor is that of free states.
    """
    reads = getattr(head, "reads", head)
    if not isinstance(reads, (Linear, Factorized)):
        return None
    narrow = reads.feature_rank < reads.hidden_size
    return reads.feature_rank, "none" if narrow else norm, reads.bias is not None
