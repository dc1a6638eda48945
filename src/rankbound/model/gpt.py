"""A pre-norm decoder that holds Pythia's (GPT-NeoX), GPT-2-like and Llama-like bodies.

Design decisions:
- The default is Pythia's block, the suite the saturation claim was made on: parallel residual,
  LayerNorm with shift, GELU, biases, a quarter of each head's dimensions rotated.
- The body ends after the final norm. What reads it is a head's business.
- The embedding is looked up outside `trunk`, the part that torch.compile gets: compiled, the lookup's
  gradient is summed by atomic additions in no fixed order, and a run would not repeat bit for bit.
- `layers` returns every hidden state; recorders call it on the uncompiled module, since hooks on a
  compiled one are silently not called.

Shapes: B batch, T time, D hidden size, H heads, E size of a head.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.model.block import Block
from rankbound.model.norm import Norm, norm_layer
from rankbound.model.rotary import rotary_table, rotated_size


class GPT(nn.Module):
    """Tokens (B, T) int64 -> hidden states (B, T, D) after the final norm.

    Args:
        vocab_size: number of tokens.
        hidden_size: D, width of the residual stream.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads; must divide hidden_size.
        intermediate_size: width of the feed-forward layer; 4 x hidden_size if not given.
        max_position_embeddings: longest sequence.
        rotary_pct: share of each attention head's dimensions that is rotated, two at least; 0 for none.
        rotary_emb_base: base of the rotary frequencies.
        norm: `layernorm` (with shift), `layernorm_without_shift` or `rmsnorm`.
        norm_eps: added to the variance.
        activation: `gelu`, or `swiglu` (gated, no biases of its own).
        parallel_residual: attention and feed-forward both read the block's input.
        qk_norm: normalise queries and keys per head.
        use_bias: biases in attention and feed-forward layers.
        dropout: on the embedding, attention weights and both outputs of a block.
        init: `pythia` (normal 2/(5D), outputs 2/(L sqrt D)) or `gpt2` (0.02, outputs 0.02/sqrt(2L)).
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 2048,
        rotary_pct: float = 0.25,
        rotary_emb_base: float = 10_000.0,
        norm: Norm = "layernorm",
        norm_eps: float = 1e-5,
        activation: Literal["gelu", "swiglu"] = "gelu",
        parallel_residual: bool = True,
        qk_norm: bool = False,
        use_bias: bool = True,
        dropout: float = 0.0,
        init: Literal["pythia", "gpt2"] = "pythia",
    ) -> None:
        super().__init__()
        if intermediate_size is None:
            intermediate_size = 4 * hidden_size
        sizes = {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "max_position_embeddings": max_position_embeddings,
        }
        _check(sizes, dropout, rotary_pct)
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                hidden_size=hidden_size,
                num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size,
                norm=norm,
                norm_eps=norm_eps,
                activation=activation,
                parallel_residual=parallel_residual,
                qk_norm=qk_norm,
                use_bias=use_bias,
                dropout=dropout,
            )
            for _ in range(num_hidden_layers)
        )
        self.final_norm = norm_layer(norm, hidden_size, norm_eps)
        rotated = rotated_size(hidden_size // num_attention_heads, rotary_pct)
        cos, sin = rotary_table(max_position_embeddings, rotated, rotary_emb_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(init)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.trunk(self.embed(tokens))

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        if tokens.shape[1] > self.max_position_embeddings:
            raise InputError(
                f"a sequence of {tokens.shape[1]} tokens is longer than "
                f"max_position_embeddings = {self.max_position_embeddings}"
            )
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def trunk(self, embedded: Tensor) -> Tensor:
        """Everything between the embedding and the head: (B, T, D) -> (B, T, D)."""
        normed: Tensor = self.final_norm(self._residual_stream(embedded)[-1])
        return normed

    def layers(self, tokens: Tensor) -> dict[str, Tensor]:
        """Every hidden state (B, T, D) by name: `0` the embedding, `i` after block i, `head_input`."""
        stream = self._residual_stream(self.embed(tokens))
        states = {str(i): hidden for i, hidden in enumerate(stream)}
        return states | {"head_input": self.final_norm(stream[-1])}

    def _residual_stream(self, embedded: Tensor) -> list[Tensor]:
        cos, sin = self.cos[: embedded.shape[1]], self.sin[: embedded.shape[1]]
        stream = [self.dropout(embedded)]
        for block in self.blocks:
            stream.append(block(stream[-1], cos, sin))
        return stream

    def _initialise(self, init: Literal["pythia", "gpt2"]) -> None:
        depth, width = len(self.blocks), self.hidden_size
        inner, outer = (2 / (5 * width)) ** 0.5, 2 / (depth * width**0.5)
        if init == "gpt2":
            inner, outer = 0.02, 0.02 / (2 * depth) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=outer if name.endswith("out.weight") else inner)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def _check(sizes: dict[str, int], dropout: float, rotary_pct: float) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; it must be at least 1")
    hidden_size, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden_size % heads:
        divisors = [str(n) for n in range(1, hidden_size + 1) if hidden_size % n == 0]
        raise InputError(
            f"hidden_size {hidden_size} is not divisible by num_attention_heads {heads}; "
            f"choose num_attention_heads from {', '.join(divisors)}"
        )
    if rotary_pct > 0 and hidden_size // heads < 2:
        raise InputError(
            f"an attention head of size {hidden_size // heads} has no two dimensions to rotate; "
            "choose fewer num_attention_heads, or rotary_pct 0 for a model without positions"
        )
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if not 0 <= rotary_pct <= 1:
        raise InputError(f"rotary_pct is {rotary_pct}; it must be between 0 and 1")
