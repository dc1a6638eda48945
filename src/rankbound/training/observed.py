"""A model on its probe set at one step: what measurements look at.

Design decisions:
- States, the head and the loss are asked for by name; what one measurement computed the next one finds.
- The model runs uncompiled (hooks on a compiled one are silently not called), without dropout and, unless
  it was made otherwise, in float32: mixed precision would round the directions that are measured.
- A measurement never sees what kind of model it is. `ObservedRun` is this project's; `ObservedModule`
  (observed_module.py) is any other that has a module for a head.
- What a theory says of log-probabilities is only visible in float64, so the head is copied and widened.

Shapes: B windows, T positions, N rows, D hidden size, E features, V vocabulary.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from rankbound.errors import InputError, nearest
from rankbound.heads import ChunkedLoss, Head
from rankbound.heads.base import Factors, LinearMap
from rankbound.heads.softmax import LinearReadout
from rankbound.metrics.log_prob import distinct_contexts
from rankbound.training.language_model import LanguageModel

NormKind = Literal["free", "layernorm", "rmsnorm"]


class Observed(ABC):
    """One step's view.

    Args:
        step: optimiser steps done.
        model: the model whose weights are measured, uncompiled.
        tokens: (B, T) int64, the probe set; None where the model takes something else.
        targets: (B, T) int64, the tokens that follow; None where they are not known.
        run_dir: the run folder.
        last: whether the run ends here.
        first_position: states of earlier positions are left out of `rows`: the first of a window has
            nothing to attend to and may lie far from all others.
    """

    def __init__(
        self,
        step: int,
        model: nn.Module,
        tokens: Tensor | None,
        targets: Tensor | None,
        run_dir: Path,
        last: bool = False,
        first_position: int = 1,
    ) -> None:
        self.step, self.model, self.run_dir, self.last = step, model, run_dir, last
        self.tokens, self.targets = tokens, targets
        self.first_position = first_position

    @cached_property
    @abstractmethod
    def states(self) -> dict[str, Tensor]:
        """Hidden states (B, T, D) or (N, D) by layer in order; the last is `head_input`."""

    @abstractmethod
    def matrices(self) -> dict[str, Tensor]:
        """The head's matrices by name, as `Head.matrices` has them."""

    @abstractmethod
    def factors(self, hidden: Tensor) -> Factors | None:
        """`Head.factors` of the widened head, float64."""

    @abstractmethod
    def linear_map(self) -> LinearMap | None:
        """`Head.linear_map` of the head as it is."""

    @abstractmethod
    def log_prob(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V) in float64, differentiable in the states."""

    @abstractmethod
    def loss(self, hidden: Tensor | None = None) -> Tensor:
        """Mean nats on the probe set, differentiable in every weight; from `hidden` (N, D) if given."""

    def statistics(self) -> dict[str, Tensor]:
        """What the head says of itself on the probe's states."""
        return {}

    @abstractmethod
    def jacobian_map(self) -> LinearMap | None:
        """`linear_map` in float64 where d log p / d hidden is that of softmax(W h + b); else None."""

    def final_norm(self) -> tuple[NormKind, Tensor | None, Tensor | None]:
        """What bounds the head's input: the norm's kind, gain (D,) and shift (D,); `free` if not known."""
        return "free", None, None

    def circuits(self) -> list[str]:
        """Names of the modules that write into the residual stream, where they are known."""
        return []

    @property
    def head_input(self) -> Tensor:
        """(N, D), every position."""
        return flat(self.states["head_input"])

    def rows(self, layer: str) -> Tensor:
        """A layer's states (N, D) from `first_position` on."""
        states = self.states[layer]
        return flat(states[:, self.first_position :] if states.ndim == 3 else states)

    def contexts(self, count: int, seed: int) -> Tensor:
        """Indices (count,) into `head_input` of distinct contexts, fewer where there are fewer."""
        if self.tokens is not None:
            return distinct_contexts(self.tokens, count, seed)
        generator = torch.Generator().manual_seed(seed)
        total = len(self.head_input)
        return torch.randperm(total, generator=generator)[:count].sort().values

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """States (count, D) and targets (count,) of some positions, the same at every step."""
        if self.targets is None:
            raise InputError("the probe set has no targets; give the recorder `targets`")
        generator = torch.Generator().manual_seed(seed)
        positions = torch.arange(self.targets.numel()).view(self.targets.shape)
        kept = positions[:, self.first_position :].flatten() if positions.ndim == 2 else positions
        chosen = kept[torch.randperm(len(kept), generator=generator)[:count].sort().values]
        chosen = chosen.to(self.head_input.device)
        return self.head_input[chosen], self.targets.flatten()[chosen]

    def outputs(self, modules: Sequence[str]) -> dict[str, Tensor]:
        """What modules of `model` return on the probe set, (N, D) by name."""
        if not modules:
            return {}
        with torch.no_grad(), captured(self.model, modules, inputs=False) as found:
            self._run()
        return {name: flat(found[name]) for name in modules}

    @abstractmethod
    def _run(self) -> Any:
        """Run the model on the probe set once."""


class ObservedRun(Observed):
    """A `LanguageModel` of this project."""

    model: LanguageModel

    @cached_property
    def states(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.model.body.layers(self.tokens)  # type: ignore[arg-type]

    def matrices(self) -> dict[str, Tensor]:
        return self.model.head.matrices()

    @cached_property
    def _wide(self) -> Head:
        return copy.deepcopy(self.model.head).double().requires_grad_(False)

    def factors(self, hidden: Tensor) -> Factors | None:
        return self._wide.factors(hidden.double())

    def linear_map(self) -> LinearMap | None:
        return self.model.head.linear_map()

    def log_prob(self, hidden: Tensor) -> Tensor:
        return self._wide.log_prob(hidden.double())

    def loss(self, hidden: Tensor | None = None) -> Tensor:
        assert self.tokens is not None
        assert self.targets is not None
        states = self.model.body(self.tokens).flatten(0, 1) if hidden is None else hidden
        loss: Tensor = ChunkedLoss(self.model.head)(states, self.targets.flatten())
        return loss

    def statistics(self) -> dict[str, Tensor]:
        return self.model.head.statistics(self.head_input)

    def jacobian_map(self) -> LinearMap | None:
        return closed_form(self._wide)

    def final_norm(self) -> tuple[NormKind, Tensor | None, Tensor | None]:
        norm = self.model.body.final_norm
        if isinstance(norm, nn.LayerNorm):
            return "layernorm", norm.weight, norm.bias
        return "rmsnorm", cast(nn.RMSNorm, norm).weight, None

    def circuits(self) -> list[str]:
        blocks = range(len(self.model.body.blocks))
        return [f"body.blocks.{i}.{part}" for i in blocks for part in ("attention", "feed_forward")]

    def _run(self) -> Any:
        return self.model.body(self.tokens)


@contextmanager
def captured(
    model: nn.Module, names: Sequence[str], inputs: bool, detached: bool = True
) -> Iterator[dict[str, Tensor]]:
    """What modules get (`inputs`) or return while the block runs, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple | list) else value
        if not isinstance(tensor, Tensor):
            raise InputError(f"module {name} gives {type(tensor).__name__}; a tensor of states is needed")
        found[name] = tensor.detach() if detached else tensor

    def hooked(name: str) -> Any:
        module = submodule(model, name)
        if inputs:
            return module.register_forward_pre_hook(
                lambda _, given, named: keep(name, [*given, *named.values()]), with_kwargs=True
            )
        return module.register_forward_hook(lambda _, __, returned: keep(name, returned))

    handles = [hooked(name) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in found:
            raise InputError(
                f"module {name} was not called, as a module, while the model ran on the probe set"
            )


def closed_form(head: Head) -> LinearMap | None:
    """`linear_map` of a head that is one softmax of it, with a true gradient."""
    linear = isinstance(head, LinearReadout) and not head.changes_ranking and head.gradient_is_exact
    return head.linear_map() if linear else None


def submodule(model: nn.Module, name: str) -> nn.Module:
    """A module inside by its dotted name; raises `InputError` with the nearest name."""
    modules = dict(model.named_modules())
    if name not in modules or not name:
        raise InputError(f"{type(model).__name__} has no module {name!r}{nearest(name, modules)}")
    found: nn.Module = modules[name]
    return found


def flat(states: Tensor) -> Tensor:
    """(.., D) -> (N, D)."""
    return states.flatten(0, -2)
