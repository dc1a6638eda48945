from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rankbound.heads import Head, all_heads
from rankbound.heads.adaptive import Adaptive
from rankbound.heads.features import Expanded, ResidualMLP
from rankbound.heads.linear import Factorized, Linear
from rankbound.heads.mixtape import Mixtape
from rankbound.heads.mixture import MixtureOfContexts, MixtureOfSoftmaxes
from rankbound.heads.partitioned import LinearlyPartitioned, Partitioned
from rankbound.heads.pointwise import PiecewiseLinear, SigSoftmax, SoftCap
from rankbound.heads.taught import BackwardFactorized, ForwardFactorized, TaughtFactorized

HIDDEN, VOCAB = 20, 176  # the vocabulary is twice the largest finite bound, 4 x 20 + 1, and more

Factory = Callable[[int, int], Head]

#: Settings beside the defaults where a declaration differs, or could be wrong.
SETTINGS: dict[str, Factory] = {
    "Linear bias": partial(Linear, bias=True),
    "Factorized bias": partial(Factorized, rank=5, bias=True),
    "Factorized rank > D": partial(Factorized, rank=30),
    "Softmaxes tanh": partial(MixtureOfSoftmaxes, activation="tanh"),
    "Softmaxes K=1": partial(MixtureOfSoftmaxes, components=1),
    "Softmaxes K=1 E<D": partial(MixtureOfSoftmaxes, components=1, latent_size=7),
    "Softmaxes K=1 E>D": partial(MixtureOfSoftmaxes, components=1, latent_size=30),
    "Softmaxes K=1 E>D tanh": partial(MixtureOfSoftmaxes, components=1, latent_size=30, activation="tanh"),
    "Softmaxes K=3 E=2": partial(MixtureOfSoftmaxes, components=3, latent_size=2),
    "Contexts tanh E>D": partial(MixtureOfContexts, latent_size=30, activation="tanh"),
    "Contexts K=1 E>D": partial(MixtureOfContexts, components=1, latent_size=30),
    "Contexts K=2 E>2D": partial(MixtureOfContexts, components=2, latent_size=60),
    "Contexts E<D": partial(MixtureOfContexts, latent_size=9),
    "Mixtape K=2 tanh": partial(Mixtape, components=2, activation="tanh"),
    "Mixtape K=2 E=3 G=2": partial(Mixtape, components=2, latent_size=3, gate_size=2),
    "Expanded 31": partial(Expanded, size=31),
    "ResidualMLP 3": partial(ResidualMLP, intermediate_size=3),
    "Partitioned 1": partial(Partitioned, parts=1),
    "Partitioned 3": partial(Partitioned, parts=3),
    "LinearlyPartitioned 3": partial(LinearlyPartitioned, parts=3),
    "Adaptive one tail": partial(Adaptive, cutoffs=[100], div_value=4),
    "Adaptive narrow": partial(Adaptive, cutoffs=[2], div_value=8),
    "Adaptive one token": partial(Adaptive, cutoffs=[VOCAB - 1]),
    "Adaptive three tails": partial(Adaptive, cutoffs=[4, 9, 20]),
    "SoftCap of Factorized": partial(SoftCap, inner=partial(Factorized, rank=18)),
    "SoftCap of SoftCap": partial(SoftCap, inner=SoftCap),
    "SigSoftmax of Linear bias": partial(SigSoftmax, inner=partial(Linear, bias=True)),
    "PiecewiseLinear of Expanded": partial(PiecewiseLinear, inner=Expanded, bins=8),
    "ForwardFactorized 4": partial(ForwardFactorized, rank=4),
    "TaughtFactorized 4": partial(TaughtFactorized, rank=4),
    "BackwardFactorized random": partial(BackwardFactorized, rank=4, subspace="random"),
    "BackwardFactorized full": partial(BackwardFactorized, rank=HIDDEN),
}
FACTORIES: dict[str, Factory] = {**all_heads(), **SETTINGS}


def random_head(make: Factory, hidden_size: int = HIDDEN, vocab_size: int = VOCAB) -> Head:
    """float64 and random parameters: some heads are degenerate where they are initialised."""
    torch.manual_seed(0)
    head = make(hidden_size, vocab_size).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
    head.before_step(0)
    return head


def states(rows: int) -> Tensor:
    return torch.randn(rows, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def targets(rows: int) -> Tensor:
    return torch.randint(0, VOCAB, (rows,), generator=torch.Generator().manual_seed(2))
