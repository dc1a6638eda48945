"""Where a model keeps attention's value and output weights.

Attention modules are known by the names of their attributes, so a model of any library that uses one of
four conventions is read; a module that fits none, or whose weights do not have the shapes that the
convention says, is not listed rather than guessed.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from rankbound.metrics.weights import Layout, value_weight


class AttentionCircuit(NamedTuple):
    """Arguments of `output_value_spectra`: value_weight (G E, D), output_weight (D, H E), H and G."""

    value_weight: Tensor
    output_weight: Tensor
    num_heads: int
    num_key_value_heads: int


def attention_circuits(module: nn.Module, layout: Layout | None = None) -> dict[str, AttentionCircuit]:
    """Value and output weights of every attention module inside, by module name; views of the parameters.

    Known by attribute names: `query_key_value` and `out` (this project; rows `three_heads`),
    `query_key_value` and `dense` (GPT-NeoX; rows `per_head`), `c_attn` and `c_proj` (GPT-2, transposed or
    nn.Linear; rows `three_heads`), `v_proj` and `o_proj` (Llama and its kin, values shared or not). The
    number of heads is the module's or its config's.

    Args:
        module: a model, a layer or one attention module.
        layout: order of the fused rows where it is not the convention's, see `value_weight`.
    """
    found = ((name, _circuit(part, layout)) for name, part in module.named_modules())
    return {name: circuit for name, circuit in found if circuit is not None}


def _circuit(module: nn.Module, layout: Layout | None) -> AttentionCircuit | None:
    heads = _number_of_heads(module)
    if (value := _matrix(module, "v_proj")) is not None and (
        output := _matrix(module, "o_proj")
    ) is not None:
        size = getattr(module, "head_dim", None) or output.shape[1] // max(heads, 1)
        if not size or output.shape[1] % size or value.shape[0] % size:
            return None
        heads, groups = output.shape[1] // size, value.shape[0] // size
        return None if heads % groups else AttentionCircuit(value, output, heads, groups)
    conventions: tuple[tuple[str, str, Layout], ...] = (
        ("query_key_value", "out", "three_heads"),
        ("query_key_value", "dense", "per_head"),
        ("c_attn", "c_proj", "three_heads"),
    )
    for fused_name, output_name, convention in conventions:
        fused, output = _matrix(module, fused_name), _matrix(module, output_name)
        if fused is None or output is None:
            continue
        if heads and output.shape[1] % heads == 0 and fused.shape[0] == 3 * output.shape[1]:
            return AttentionCircuit(value_weight(fused, heads, layout or convention), output, heads, heads)
    return None


def _matrix(module: nn.Module, name: str) -> Tensor | None:
    """The weight (out, in) of a child: nn.Linear's as it is, that of a Conv1D (in, out) transposed."""
    child = getattr(module, name, None)
    weight = getattr(child, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    return weight.T if type(child).__name__ == "Conv1D" else weight


def _number_of_heads(module: nn.Module) -> int:
    for holder in (module, getattr(module, "config", None)):
        for name in ("num_attention_heads", "num_heads", "n_head"):
            number = getattr(holder, name, None)
            if isinstance(number, int):
                return number
    return 0
