"""What a family is: how its config.json says an architecture, and where its tensors lie in ours.

Design decisions:
- Import and export are one statement. A family names, for each of its tensors, the part of our parameters
  that holds the same numbers (`Slot`: a view, perhaps shifted); reading a checkpoint fills the
  views, writing one reads them. Neither can forget what the other does.
- A config is read as a plain dictionary, old spellings and new; what it says of the map and `GPT` has no
  setting for raises `UnsupportedError`. A field that is not known here and changes the map in some future
  version would be missed: the equality with `transformers` is tested, not assumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.heads.linear import Linear
from rankbound.heads.pointwise import SoftCap
from rankbound.model import RotaryScaling
from rankbound.model.attention import Attention
from rankbound.model.rotary import rotated_size
from rankbound.pretrained.families.architecture import Architecture
from rankbound.training.language_model import LanguageModel

Config = Mapping[str, Any]

#: Names of activations in config.json and ours, plain and as a gate.
ACTIVATIONS: dict[str, tuple[str, str]] = {
    "gelu": ("gelu", "geglu"),
    "gelu_new": ("gelu_tanh", "geglu_tanh"),
    "gelu_pytorch_tanh": ("gelu_tanh", "geglu_tanh"),
    "relu": ("relu", ""),
    "silu": ("silu", "swiglu"),
    "swish": ("silu", "swiglu"),
}


class UnsupportedError(InputError):
    """An architecture that `GPT` does not hold exactly; `ForeignModel` reads its states all the same."""


@dataclass(frozen=True)
class Slot:
    """Where a checkpoint's tensor lies in our model: part = tensor + shift.

    - `part`: a view of our parameter; its shape may split rows into more dimensions
    - `shape`: the tensor's own
    """

    part: Tensor
    shape: tuple[int, ...]
    shift: float = 0.0

    @staticmethod
    def of(part: Tensor, shift: float = 0.0) -> Slot:
        """A part that has the tensor's shape."""
        return Slot(part.detach(), tuple(part.shape), shift)

    def fill(self, tensor: Tensor) -> None:
        """Copy in a tensor of the checkpoint."""
        self.part.copy_(tensor.view(self.part.shape))
        if self.shift != 0:
            self.part.add_(self.shift)

    def tensor(self) -> Tensor:
        """What a checkpoint would hold, contiguous."""
        value = self.part - self.shift if self.shift else self.part
        return value.reshape(self.shape).contiguous()


Slots = Iterator[tuple[str, Slot]]


class Family(ABC):
    """Checkpoints with one `model_type`, or of several that share names and maps.

    - `model_types`: the first is what is written
    - `model_class`: of `transformers`, with a head
    - `prefix`: of the names of the body's tensors, absent where a body was saved alone
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[str]
    prefix: ClassVar[str]

    @abstractmethod
    def read(self, config: Config) -> Architecture:
        """What a config.json describes; raises `UnsupportedError`, or `KeyError` for a missing field."""

    @abstractmethod
    def write(self, architecture: Architecture) -> dict[str, Any]:
        """The config.json of an architecture, for what it has fields for."""

    @abstractmethod
    def slots(self, model: LanguageModel) -> Slots:
        """Every tensor of a checkpoint by name, and where it lies in `model`."""


def linear_head(model: LanguageModel) -> Linear:
    """The head's linear map, inside its soft cap if it has one."""
    head = model.head.inner if isinstance(model.head, SoftCap) else model.head
    assert isinstance(head, Linear)
    return head


def blocks(model: LanguageModel) -> list[Any]:
    """The body's blocks; Any, since a module's parts have no types of their own."""
    return list(model.body.blocks)


def untied_head(name: str, model: LanguageModel) -> Slots:
    """The head's matrix, where it is not the embedding's."""
    weight = linear_head(model).weight
    if weight is not model.body.embedding.weight:
        yield f"{name}.weight", Slot.of(weight)


def layer(name: str, module: nn.Module, shift: float = 0.0) -> Slots:
    """Weight and bias of a linear layer or a norm, as far as it has them."""
    for kind, parameter in module.named_parameters(recurse=False):
        yield f"{name}.{kind}", Slot.of(parameter, shift=shift if kind == "weight" else 0.0)


def separate_projections(names: str, attention: Attention) -> Slots:
    """Queries, keys and values from layers of their own; `names` has a {} for q, k or v."""
    heads = (attention.num_attention_heads, *2 * (attention.num_key_value_heads,))
    rows = [number * attention.head_dim for number in heads]
    for kind, parameter in attention.query_key_value.named_parameters():
        for letter, part in zip("qkv", torch.split(parameter, rows), strict=True):
            yield f"{names.format(letter)}.{kind}", Slot.of(part)


def activation(name: str, gated: bool = False) -> str:
    """Our name of an activation that a config names."""
    ours = ACTIVATIONS.get(name, ("", ""))[gated]
    if not ours:
        raise UnsupportedError(f"activation {name} is not one of {', '.join(ACTIVATIONS)}")
    return ours


def activation_written(ours: str) -> str:
    """What a config names ours."""
    return next(theirs for theirs, names in ACTIVATIONS.items() if ours in names)


def heads(config: Config, default_head_dim: int | None = None) -> dict[str, Any]:
    """Sizes of attention as nearly all families name them."""
    number = config["num_attention_heads"]
    return {
        "num_attention_heads": number,
        "num_key_value_heads": config.get("num_key_value_heads") or number,
        "head_dim": config.get("head_dim") or default_head_dim or config["hidden_size"] // number,
    }


def rotary(config: Config, head_dim: int, share: float = 1.0, base: float = 10_000.0) -> dict[str, Any]:
    """Rotary settings in either spelling: `rope_parameters`, or `rope_theta` and `rope_scaling`."""
    rope: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta", config.get("rope_theta", base)))
    share = float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", share)))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedError(f"rotary positions of type {kind} are not one of default, linear, llama3")
    if rotated_size(head_dim, share) != int(head_dim * share):
        raise UnsupportedError(f"{share} of {head_dim} rotary dimensions are no even number")
    scaling = None
    if kind != "default":
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        original = {name: rope[name] for name in names} if kind == "llama3" else {}
        scaling = RotaryScaling(rope["factor"], **original)
    return {"rotary_pct": share, "rotary_emb_base": base, "rotary_scaling": scaling}


def rotary_written(settings: Config) -> dict[str, Any]:
    """`rope_parameters` for our settings."""
    rotated = rotated_size(settings["head_dim"], settings["rotary_pct"])
    rope = {
        "rope_type": "default",
        "rope_theta": settings["rotary_emb_base"],
        "partial_rotary_factor": rotated / settings["head_dim"],
    }
    scaling: RotaryScaling | None = settings["rotary_scaling"]
    if scaling is not None:
        given = {name: value for name, value in vars(scaling).items() if value is not None}
        rope |= given | {"rope_type": "linear" if len(given) == 1 else "llama3"}
    return rope


def window(config: Config, sliding: int | None) -> int:
    """The longest sequence that attention over a sliding window sees whole."""
    longest: int = config["max_position_embeddings"]
    return min(longest, sliding) if sliding else longest


def fill(slots: Mapping[str, Slot], tensors: Iterator[tuple[str, Tensor]], prefix: str, tied: bool) -> None:
    """Copy a checkpoint's tensors into a model, one at a time.

    Raises:
        InputError: a tensor that is missing, unknown, of another shape, or not finite.
    """
    left = dict(slots)
    for name, tensor in tensors:
        known = name if name in slots else prefix + name
        if known not in slots:
            if _is_buffer(name) or (tied and name in ("lm_head.weight", "embed_out.weight")):
                continue
            raise InputError(f"its tensor {name} has no place in what its config.json describes")
        slot = slots[known]
        if tuple(tensor.shape) != slot.shape:
            raise InputError(
                f"its tensor {name} is {tuple(tensor.shape)}, its config.json makes it {slot.shape}"
            )
        if tensor.is_floating_point() != slot.part.is_floating_point():
            raise InputError(f"its tensor {name} is {tensor.dtype}: quantised weights are not read")
        if not (tensor.sum().isfinite() or tensor.isfinite().all()):
            raise InputError(f"its tensor {name} holds NaN or infinite numbers")
        with torch.no_grad():
            slot.fill(tensor)
        left.pop(known, None)
    if left:
        raise InputError(f"it lacks {len(left)} of {len(slots)} tensors, such as {next(iter(left))}")


def _is_buffer(name: str) -> bool:
    """Masks and frequencies that old checkpoints hold beside weights."""
    ends = ("attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "inv_freq")
    return name.endswith(ends)
