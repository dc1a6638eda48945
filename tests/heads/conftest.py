import torch
from torch import Tensor

from rankbound.heads import Head

HIDDEN, VOCAB = 20, 176  # the vocabulary is twice the largest finite bound, 4 x 20 + 1, and more


def random_head(cls: type[Head], hidden_size: int = HIDDEN, vocab_size: int = VOCAB) -> Head:
    """float64 and random parameters: some heads are degenerate where they are initialised."""
    torch.manual_seed(0)
    head = cls(hidden_size, vocab_size).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
    head.before_step(0)
    return head


def states(rows: int) -> Tensor:
    return torch.randn(rows, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def targets(rows: int) -> Tensor:
    return torch.randint(0, VOCAB, (rows,), generator=torch.Generator().manual_seed(2))
