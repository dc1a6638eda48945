"""Any module on its probe set: its head is a module inside it that maps states to logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.heads import Head
from rankbound.heads.base import Factors, LinearMap
from rankbound.training.observed import Observed, captured, closed_form, flat, submodule


class ObservedModule(Observed):
    """A model known by the dotted names of its head and layers; hidden states come from hooks.

    A plain `nn.Linear` is measured in closed form, any other head by its outputs.

    Args:
        head: the head's name in `model`; a module (.., D) -> (.., V), logits or a `Head`.
        layers: names of modules whose outputs are recorded as layers.
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
        head_input = read[self._head_name]
        positions = head_input.numel() // head_input.shape[-1]
        for known in (self.tokens, self.targets):
            if known is not None and known.numel() != positions:
                raise InputError(
                    f"{self._head_name} reads {positions} states of a probe set of {known.numel()} tokens; "
                    "positions cannot be told"
                )
        return {name: found[name] for name in self._layers} | {"head_input": head_input}

    def matrices(self) -> dict[str, Tensor]:
        if isinstance(self._head, Head):
            return self._head.matrices()
        return {name: p for name, p in self._head.named_parameters() if p.ndim == 2}

    @cached_property
    def _wide(self) -> nn.Module:
        return copy.deepcopy(self._head).double().requires_grad_(False)

    def factors(self, hidden: Tensor) -> Factors | None:
        if isinstance(self._wide, Head):
            return self._wide.factors(hidden.double())
        if _is_plain(self._wide):
            return hidden.double(), self._wide.weight, self._wide.bias
        return None

    def linear_map(self) -> LinearMap | None:
        if isinstance(self._head, Head):
            return self._head.linear_map()
        return (self._head.weight, self._head.bias) if _is_plain(self._head) else None

    def jacobian_map(self) -> LinearMap | None:
        if isinstance(self._wide, Head):
            return closed_form(self._wide)
        return (self._wide.weight, self._wide.bias) if _is_plain(self._wide) else None

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
            hidden = flat(read[self._head_name])
        targets = self.targets.flatten()
        if isinstance(self._head, Head):
            return self._head.nll(hidden, targets).mean()
        logits: Tensor = self._head(hidden)
        return nn.functional.cross_entropy(logits.float(), targets)

    def statistics(self) -> dict[str, Tensor]:
        return self._head.statistics(self.head_input) if isinstance(self._head, Head) else {}

    def _run(self) -> Any:
        with torch.compiler.set_stance("force_eager"):  # compiled code does not call hooks
            return self.model(self._batch)


def _is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head computes what nn.Linear does; a subclass may scale or adapt it."""
    return isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
