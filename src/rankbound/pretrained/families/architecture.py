"""What a model is, apart from its weights: the settings of its body and which linear head reads it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from rankbound.heads.linear import Linear
from rankbound.heads.pointwise import SoftCap
from rankbound.model import GPT
from rankbound.model.gpt import resolved
from rankbound.model.rotary import rotated_size
from rankbound.training.language_model import LanguageModel

#: Settings that decide how a model is trained and not what it computes.
_TRAINING = ("dropout", "init")


@dataclass(frozen=True)
class Architecture:
    """A body with a linear head.

    - `body`: settings of `GPT`; what is left out is its default
    - `bias`: the head adds a constant to the logits
    - `soft_cap`: c where it caps them, c tanh(z / c)
    - `tied`: it reads with the embedding's matrix
    """

    body: Mapping[str, Any]
    bias: bool = False
    soft_cap: float | None = None
    tied: bool = False

    @staticmethod
    def of(model: LanguageModel) -> Architecture | None:
        """That of a model; None where its head is not linear or a soft cap of a linear one."""
        head = model.head
        cap = head.cap if type(head) is SoftCap else None
        linear = head.inner if isinstance(head, SoftCap) else head
        if type(linear) is not Linear:
            return None
        tied = linear.weight is model.body.embedding.weight
        return Architecture(model.body.settings, linear.bias is not None, cap, tied)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the body, those that follow from others worked out."""
        parameters = inspect.signature(GPT).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        return resolved({**defaults, **self.body})

    def empty(self, dtype: torch.dtype = torch.float32) -> LanguageModel:
        """The model in evaluation mode on the CPU, its weights allocated and left as they are."""
        linear = partial(Linear, bias=self.bias)
        head = linear if self.soft_cap is None else partial(SoftCap, inner=linear, cap=self.soft_cap)
        with torch.device("meta"):
            model = LanguageModel(GPT(**self.body), head)
        model.to(dtype).to_empty(device="cpu")
        model.body.cos, model.body.sin = model.body.rotary_tables()
        if self.tied:  # after allocation, which would undo it
            model.head.tie(cast(nn.Parameter, model.body.embedding.weight))
        return model.eval()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._map() == other._map()

    def __hash__(self) -> int:
        return hash((self.bias, self.soft_cap, self.tied))

    def _map(self) -> tuple[Any, ...]:
        """What decides the model's map from tokens to probabilities, in one form only."""
        return what_it_computes(self.settings), self.bias, self.soft_cap, self.tied


def what_it_computes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a body, all given, that decide its map from tokens to states, in one form only."""
    body = {name: value for name, value in settings.items() if name not in _TRAINING}
    rotated = body["rotary_pct"] = rotated_size(body["head_dim"], body["rotary_pct"])
    if rotated == 0:
        body["rotary_emb_base"] = body["rotary_scaling"] = None
    return body
