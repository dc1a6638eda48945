"""A head's ranks, measured: what its declared bounds are held against, by anyone who doubts them.

- Parameters are random, not initial: some heads start degenerate (a piecewise-linear map as the identity,
  a residual layer at zero), and a bound must be reached to be worth stating.
- float64 from end to end: a float32 log-probability has full rank by its rounding alone.
- A rank is counted at a tolerance relative to the largest singular value. A true bound shows as a gap of
  many decades, so 1e-10 counts it; a curved map of low-rank logits has a tail that 1e-3 does not see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.heads.base import Head

EXACT, COARSE = 1e-10, 1e-3
STATES = 32  # jacobians of as many states are stacked; each has up to hidden_size rows


@dataclass(frozen=True)
class MeasuredRanks:
    """Ranks at random parameters and states.

    - `log_prob`: of the log-probability matrix, at tolerance 1e-10
    - `log_prob_coarse`: the same at 1e-3
    - `backward`: of d log p / d hidden over all states, at 1e-10
    - `state_backward`: of d log p / d hidden at one state, the largest, at 1e-10
    """

    log_prob: int
    log_prob_coarse: int
    backward: int
    state_backward: int


def measure_ranks(head: Head, seed: int = 0) -> MeasuredRanks:
    """Ranks of a head of this kind and size; `head` itself is given random float64 parameters.

    As many states as tokens are drawn; choose a vocabulary of at least twice the bound, or the matrix's own
    size is what is measured.
    """
    generator = torch.Generator().manual_seed(seed)
    head = head.double()
    with torch.no_grad():
        for parameter in head.parameters():
            std = 1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.normal_(std=std, generator=generator)
    head.before_step(0)
    states_ND = torch.randn(head.vocab_size, head.hidden_size, dtype=torch.float64, generator=generator)
    spectrum = torch.linalg.svdvals(head.log_prob(states_ND).detach())
    at_states = torch.func.vmap(torch.func.jacfwd(lambda h_D: head.log_prob(h_D[None])[0]))
    jacobians_SVD = at_states(states_ND[:STATES]).detach()
    every_row = jacobians_SVD.transpose(1, 2).flatten(0, 1)
    return MeasuredRanks(
        log_prob=_rank(spectrum, EXACT),
        log_prob_coarse=_rank(spectrum, COARSE),
        backward=_rank(torch.linalg.svdvals(every_row), EXACT),
        state_backward=int(torch.linalg.matrix_rank(jacobians_SVD, rtol=EXACT).max()),
    )


def _rank(spectrum: Tensor, tolerance: float) -> int:
    return int((spectrum > tolerance * spectrum[0]).sum())
