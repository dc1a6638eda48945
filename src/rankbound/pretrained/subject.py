"""A model as the diagnosis looks at it: states, head, and what the recorder's measurements ask for.

Design decisions:
- The measurements are those of the recorder, so a diagnosed checkpoint and a recorded run have the same
  figures by the same names.
- An architecture that this project's body does not hold is measured by its states and output matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from rankbound.analysis.readout import Readout, readout_of, target_nll_
from rankbound.errors import InputError
from rankbound.heads import ChunkedLoss
from rankbound.heads.base import Factors, LinearMap
from rankbound.pretrained.families import UnsupportedError
from rankbound.pretrained.foreign import ForeignModel, load_foreign
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.pretrained import Pretrained
from rankbound.runs import Run
from rankbound.training.observed import Observed, ObservedRun


@dataclass(frozen=True)
class Subject:
    """What is diagnosed.

    - `hidden`: tokens (B, T) -> the head's input (B, T, D), without gradients
    - `nll`: states (N, D), targets (N,) -> nats (N,)
    - `observe`: tokens and targets (B, T) -> what the measurements look at
    - `readout`: the head where it is linear in the state, else None
    """

    name: str
    head: str
    vocab_size: int
    width: int
    context: int
    end_of_text: int | None
    tokenizer: Tokenizer | None
    readout: Readout | None
    hidden: Callable[[Tensor], Tensor]
    nll: Callable[[Tensor, Tensor], Tensor]
    observe: Callable[[Tensor, Tensor], Observed]
    model: nn.Module
    run: Run | None = None
    note: str = ""


def load_subject(source: str, revision: str | None = None) -> Subject:
    """A model from wherever `load_pretrained` finds it, or any causal model of `transformers`."""
    try:
        return _of_pretrained(load_pretrained(source, revision))
    except UnsupportedError as unsupported:
        return _of_foreign(load_foreign(source, revision), str(unsupported))


def _of_pretrained(found: Pretrained) -> Subject:
    model = found.model
    loss = ChunkedLoss(model.head)

    @torch.inference_mode()
    def hidden(tokens: Tensor) -> Tensor:
        states: Tensor = model.body(tokens)
        return states

    readout = readout_of(model.head)
    _check_finite(model, found.name)
    return Subject(
        name=found.name,
        head=model.head.label(),
        vocab_size=model.head.vocab_size,
        width=model.head.hidden_size,
        context=found.context,
        end_of_text=found.end_of_text,
        tokenizer=found.tokenizer,
        readout=readout,
        hidden=hidden,
        nll=loss.rows,
        observe=lambda tokens, targets: ObservedRun(0, model, tokens, targets, Path(), last=True),
        model=model,
        run=found.run,
        note=""
        if readout
        else f"Its head, {model.head.label()}, is not linear in the state: there is no rank to cut, and no "
        "head to start corrections from.",
    )


def _of_foreign(found: ForeignModel, why: str) -> Subject:
    readout = Readout(found.weight.float(), found.bias, found.soft_cap)

    def nll(hidden: Tensor, target: Tensor) -> Tensor:
        rows = readout.chunk_rows()
        parts = zip(torch.split(hidden, rows), torch.split(target, rows), strict=True)
        return torch.cat([target_nll_(readout.logits(h), y) for h, y in parts])

    return Subject(
        name=found.name,
        head="Linear" if found.soft_cap is None else f"SoftCap(cap={found.soft_cap:g})",
        vocab_size=readout.vocab_size,
        width=readout.width,
        context=found.context,
        end_of_text=found.end_of_text,
        tokenizer=found.tokenizer,
        readout=readout,
        hidden=found.hidden,
        nll=nll,
        observe=lambda tokens, targets: ObservedForeign(found, readout, tokens, targets),
        model=found._model,
        note=f"Measured by its states and output matrix: {why.partition(';')[0]}.",
    )


class ObservedForeign(Observed):
    """A model of `transformers`, by its states and output matrix."""

    def __init__(self, found: ForeignModel, readout: Readout, tokens: Tensor, targets: Tensor) -> None:
        super().__init__(0, found._model, tokens, targets, Path(), last=True)
        self._found, self._readout = found, readout

    @cached_property
    def states(self) -> dict[str, Tensor]:
        assert self.tokens is not None
        return self._found.layers(self.tokens)

    @cached_property
    def _wide(self) -> Readout:
        bias = self._readout.bias
        return Readout(
            self._readout.weight.double(), None if bias is None else bias.double(), self._readout.soft_cap
        )

    def matrices(self) -> dict[str, Tensor]:
        return {"weight": self._readout.weight}

    def factors(self, hidden: Tensor) -> Factors | None:
        if self._readout.soft_cap is not None:
            return None
        return hidden.double(), self._wide.weight, self._wide.bias

    def linear_map(self) -> LinearMap | None:
        return self._readout.weight, self._readout.bias

    def jacobian_map(self) -> LinearMap | None:
        return None if self._readout.soft_cap is not None else (self._wide.weight, self._wide.bias)

    def log_prob(self, hidden: Tensor) -> Tensor:
        raw = self._wide.raw(hidden.double())
        cap = self._readout.soft_cap
        return (raw if cap is None else cap * torch.tanh(raw / cap)).log_softmax(1)

    def loss(self, hidden: Tensor | None = None) -> Tensor:
        assert self.targets is not None
        states = self.head_input if hidden is None else hidden
        return -self.log_prob(states).gather(1, self.targets.flatten()[:, None]).mean()

    def _run(self) -> Any:
        return self._found.layers(self.tokens)  # type: ignore[arg-type]


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise InputError(f"{name}: its tensor {key} holds NaN or infinite numbers")
