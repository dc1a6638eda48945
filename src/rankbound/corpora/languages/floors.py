"""The lowest loss that a linear head of a given rank can reach on a language, whatever its trunk.

    floor = min over A, U, b of  sum_c pi_c KL(P_c, softmax(U a_c + b))        nats over the entropy

Design decisions:
- A final norm puts the states a_c on a sphere, which costs about one rank, so the floor is solved for the
  model's own norm and bias: `rmsnorm` is a sphere in r dimensions, `layernorm_without_shift` one in r - 1,
  `layernorm` the same with a free bias, since its shift is one.
- Free states start at the frequency-weighted SVD, those on a sphere at the free solution with a bias one
  rank below, lifted onto it; and both from a random start.
- The problem is not convex, so the result is an upper bound of the floor. Its tolerance is how far the two
  best starts ended apart and how much the last iterations still gained. A second random start and a third
  are made where two ends do not agree to 2e-3 nats or 1 %; none where the excess is 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from rankbound.corpora.languages.base import Language
from rankbound.corpora.languages.floor_problem import Descent, Problem
from rankbound.errors import InputError

FloorNorm = Literal["none", "rmsnorm", "layernorm", "layernorm_without_shift"]

_ZERO, _AGREED, _AGREED_SHARE, _RANDOM_STARTS = 1e-9, 2e-3, 0.01, 3


@dataclass(frozen=True)
class Floor:
    """The best reachable excess of one class of heads, nats a token over the language's entropy.

    - `language`: the language's sha256
    - `rank`, `norm`, `bias`: the class: width of the states, final norm, whether the head has a bias
    - `excess`: an upper bound of the floor, within about `tolerance` of it
    - `weighted_svd`: excess of the frequency-weighted SVD as it stands, of free states of this rank
    - `starts`: excess reached from each start
    - `iterations`: of L-BFGS, over all starts
    """

    language: str
    rank: int
    norm: FloorNorm
    bias: bool
    excess: float
    tolerance: float
    weighted_svd: float
    starts: dict[str, float]
    iterations: int


def solve_floor(
    language: Language,
    rank: int,
    norm: FloorNorm = "none",
    bias: bool = False,
    *,
    cache: Path | None = Path("data/floors"),
    iterations: int = 600,
    seed: int = 0,
) -> Floor:
    """The floor of linear heads of `rank`, from `cache` where it was solved before.

    Args:
        language: one that can list its contexts.
        rank: width of the states that the head reads.
        norm: final norm of the model; `none` lets states be anything.
        bias: whether the head has a bias.
        cache: folder of solved floors, by the language's hash; None for none.
        iterations: at most so many for each start. At a vocabulary of 1,024 one takes some 0.1 s on a core.
        seed: of the random start.

    Raises:
        InputError: a rank the class does not have, or a language whose contexts cannot be listed.
    """
    if norm not in get_args(FloorNorm):
        raise InputError(f"norm is {norm}; it must be one of {', '.join(get_args(FloorNorm))}")
    least = 2 if norm.startswith("layernorm") else 1
    if rank < least:
        raise InputError(f"rank is {rank}; a floor with norm {norm} needs at least {least}")
    asked = f"{language.sha256[:16]}-{norm}{'-bias' * bias}-r{rank}-i{iterations}-s{seed}.json"
    path = None if cache is None else Path(cache) / asked
    if path is not None and path.is_file():
        return Floor(**json.loads(path.read_text(encoding="utf-8")))
    floor = _solve(language, rank, norm, bias, iterations, seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(asdict(floor), indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    return floor


def _solve(language: Language, rank: int, norm: FloorNorm, bias: bool, iterations: int, seed: int) -> Floor:
    weight_C, log_prob_CV = (tensor.numpy() for tensor in language.contexts())
    problem = Problem(weight_C, log_prob_CV)
    on_sphere, has_bias = norm != "none", bias or norm == "layernorm"
    size = rank - norm.startswith("layernorm")
    descents: dict[str, Descent] = {}
    if on_sphere:
        below = problem.descend(problem.weighted_svd(size - 1, True), iterations)
        descents["lifted"] = problem.descend(problem.lifted(below.point, has_bias), iterations)
    else:
        descents["weighted_svd"] = problem.descend(problem.weighted_svd(size, has_bias), iterations)
    random, rng = (
        problem.random_sphere if on_sphere else problem.random_subspace,
        np.random.default_rng(seed),
    )
    while len(descents) <= _RANDOM_STARTS and not _agreed(descents):
        start = random(rng, size, has_bias)
        descents[f"random_{len(descents)}"] = problem.descend(start, iterations)
    reached = {name: found.excess for name, found in descents.items()}
    best, *others = sorted(descents.values(), key=lambda found: found.excess)
    return Floor(
        language=language.sha256,
        rank=rank,
        norm=norm,
        bias=bias,
        excess=max(best.excess, 0.0),
        tolerance=(others[0].excess - best.excess if others else 0.0) + best.late_decrease,
        weighted_svd=problem.excess(problem.weighted_svd(rank, bias)),
        starts=reached,
        iterations=sum(found.iterations for found in descents.values()),
    )


def _agreed(descents: Mapping[str, Descent]) -> bool:
    """Whether the two best ends are as good as one, or the best cannot be bettered."""
    best, *others = sorted(found.excess for found in descents.values())
    return best <= _ZERO or bool(others and others[0] - best <= max(_AGREED, _AGREED_SHARE * best))
