"""A model on its probe set at one step: what measurements look at.

Design decisions:
- States, the head and the loss are asked for by name; what one measurement computed the next one finds.
- The model runs uncompiled (hooks on a compiled one are silently not called), without dropout and, unless
  it was made otherwise, in float32: mixed precision would round the directions that are measured.
- A measurement never sees what kind of model it is. `ObservedRun` is this project's; `ObservedModule` is
  any other that has a module for a head.
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
    def factors(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Features (N, E), weight (V, E), bias (V,) of logits linear in features; None for other heads."""

    @abstractmethod
    def linear_map(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight (V, D) and bias (V,) of logits linear in the state, float64; None for other heads."""

    @abstractmethod
    def log_prob(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V) in float64, differentiable in the states."""

    @abstractmethod
    def loss(self, hidden: Tensor | None = None) -> Tensor:
        """Mean nats on the probe set, differentiable in every weight; from `hidden` (N, D) if given."""

    @property
    def rank_bound(self) -> int | None:
        """The head's declared bound; of a linear map, its width and one, and one for a bias."""
        return None

    def statistics(self) -> dict[str, Tensor]:
        """What the head says of itself on the probe's states."""
        return {}

    def final_norm(self) -> tuple[NormKind, Tensor | None, Tensor | None]:
        """What bounds the head's input: the norm's kind, gain (D,) and shift (D,); `free` if not known."""
        return "free", None, None

    def circuits(self) -> list[str]:
        """Names of the modules that write into the residual stream, where they are known."""
        return []

    @property
    def head_input(self) -> Tensor:
        """(N, D), every position."""
        return _flat(self.states["head_input"])

    def rows(self, layer: str) -> Tensor:
        """A layer's states (N, D) from `first_position` on."""
        states = self.states[layer]
        return _flat(states[:, self.first_position :] if states.ndim == 3 else states)

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
        with torch.no_grad(), captured(self.model, modules, inputs=False) as found:
            self._run()
        return {name: _flat(found[name]) for name in modules}

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

    def factors(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        head = self._wide
        if not isinstance(head, LinearReadout):
            return None
        return head.features(hidden.double()), head.weight, head.bias

    def linear_map(self) -> tuple[Tensor, Tensor | None] | None:
        return linear_map(self._wide)

    def log_prob(self, hidden: Tensor) -> Tensor:
        return self._wide.log_prob(hidden.double())

    def loss(self, hidden: Tensor | None = None) -> Tensor:
        assert self.tokens is not None
        assert self.targets is not None
        states = self.model.body(self.tokens).flatten(0, 1) if hidden is None else hidden
        loss: Tensor = ChunkedLoss(self.model.head)(states, self.targets.flatten())
        return loss

    @property
    def rank_bound(self) -> int | None:
        return self.model.head.rank_bound

    def statistics(self) -> dict[str, Tensor]:
        return self.model.head.statistics(self.head_input)

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


class ObservedModule(Observed):
    """Any module: its head is a module inside it that maps states to logits.

    Args:
        head: the head's dotted name in `model`.
        layers: dotted names of modules whose outputs are recorded as layers.
        batch: what `model` is called with; the probe set.
        others: arguments of `Observed`.
    """

    def __init__(self, *others: Any, head: str, layers: Sequence[str], batch: Any, **named: Any) -> None:
        super().__init__(*others, **named)
        self._head_name, self._layers, self._batch = head, layers, batch
        self._head = submodule(self.model, head)

    @cached_property
    def states(self) -> dict[str, Tensor]:
        with (
            torch.no_grad(),
            captured(self.model, self._layers, inputs=False) as found,
            captured(self.model, [self._head_name], inputs=True) as read,
        ):
            self._run()
        return {name: found[name] for name in self._layers} | {"head_input": read[self._head_name]}

    def matrices(self) -> dict[str, Tensor]:
        if isinstance(self._head, Head):
            return self._head.matrices()
        return {n: p for n, p in self._head.named_parameters() if p.ndim == 2}

    @cached_property
    def _wide(self) -> nn.Module:
        return copy.deepcopy(self._head).double().requires_grad_(False)

    def factors(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        if isinstance(self._wide, LinearReadout):
            return self._wide.features(hidden.double()), self._wide.weight, self._wide.bias
        if isinstance(self._wide, nn.Linear):
            return hidden.double(), self._wide.weight, self._wide.bias
        return None

    def linear_map(self) -> tuple[Tensor, Tensor | None] | None:
        return linear_map(self._wide)

    def log_prob(self, hidden: Tensor) -> Tensor:
        if isinstance(self._wide, Head):
            return self._wide.log_prob(hidden.double())
        logits: Tensor = self._wide(hidden.double())
        return logits.log_softmax(-1)

    def loss(self, hidden: Tensor | None = None) -> Tensor:
        if self.targets is None:
            raise InputError("the probe set has no targets; give the recorder `targets`")
        if hidden is None:
            with captured(self.model, [self._head_name], inputs=True, detached=False) as read:
                self._run()
            hidden = _flat(read[self._head_name])
        targets = self.targets.flatten().to(hidden.device)
        if isinstance(self._head, Head):
            return self._head.nll(hidden, targets).mean()
        logits: Tensor = self._head(hidden)
        return nn.functional.cross_entropy(logits.float(), targets)

    @property
    def rank_bound(self) -> int | None:
        if isinstance(self._head, Head):
            return self._head.rank_bound
        if isinstance(self._head, nn.Linear):
            vocab_size, width = self._head.weight.shape
            return min(vocab_size, width + 1 + (self._head.bias is not None))
        return None

    def _run(self) -> Any:
        with torch.compiler.set_stance("force_eager"):  # compiled code does not call hooks
            return self.model(self._batch)


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
            return module.register_forward_pre_hook(lambda _, given: keep(name, given))
        return module.register_forward_hook(lambda _, __, returned: keep(name, returned))

    handles = [hooked(name) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in found:
            raise InputError(f"module {name} was not called while the model ran on the probe set")


def linear_map(head: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight (V, D) and bias (V,) where the logits are a linear map of the state."""
    if isinstance(head, nn.Linear):
        return head.weight, head.bias
    if isinstance(head, LinearReadout) and not head.changes_ranking:
        return next(iter(head.matrices().values())), head.bias
    return None


def submodule(model: nn.Module, name: str) -> nn.Module:
    """A module inside by its dotted name; raises `InputError` with the nearest name."""
    modules = dict(model.named_modules())
    if name not in modules or not name:
        raise InputError(f"{type(model).__name__} has no module {name!r}{nearest(name, modules)}")
    found: nn.Module = modules[name]
    return found


def _flat(states: Tensor) -> Tensor:
    return states.flatten(0, -2)
