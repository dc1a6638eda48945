"""A pre-norm decoder that holds Pythia's (GPT-NeoX), GPT-2's and Llama-like bodies, Gemma's among them.

Design decisions:
- The default is Pythia's block, the suite the saturation claim was made on: parallel residual,
  LayerNorm with shift, GELU, biases, a quarter of each head's dimensions rotated.
- The body ends after the final norm. What reads it is a head's business.
- The embedding is looked up outside `trunk`, the part that torch.compile gets: compiled, the lookup's
  gradient is summed by atomic additions in no fixed order, and a run would not repeat bit for bit.
- Settings that follow from others are None until they are given; `settings` says what they work out to.
- `layers` returns every hidden state; recorders call it on the uncompiled module, since hooks on a
  compiled one are silently not called.

Shapes: B batch, T time, D hidden size, H heads, E size of a head.
"""

from __future__ import annotations

import math
from inspect import signature
from typing import Any, Literal

from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.model.block import Activation, Block, is_gated
from rankbound.model.cache import Cache
from rankbound.model.norm import Norm, norm_layer
from rankbound.model.rotary import RotaryScaling, rotary_table, rotated_size
from rankbound.model.tree import TokenTree

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)


class GPT(nn.Module):
    """Tokens (B, T) int64 -> hidden states (B, T, D) after the final norm.

    Args:
        vocab_size: number of tokens.
        hidden_size: D, width of the residual stream.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads; must divide hidden_size where head_dim is not given.
        num_key_value_heads: heads of keys and values, each shared by as many queries; one a query if
            not given.
        head_dim: E, size of a head; hidden_size / num_attention_heads if not given.
        intermediate_size: width of the feed-forward layer; 4 x hidden_size if not given.
        max_position_embeddings: longest sequence.
        rotary_pct: share of each attention head's dimensions that is rotated, two at least; 0 for none.
        rotary_emb_base: base of the rotary frequencies.
        rotary_scaling: slows rotary frequencies for long sequences; none if not given.
        position_embeddings: `learned` adds a vector a position to the embedding; none if not given.
        embedding_scale: factor of the embedding of a token; 1 if not given.
        norm: `layernorm` (with shift), `layernorm_without_shift` or `rmsnorm`.
        norm_eps: added to the variance.
        output_norm: norm of what attention and feed-forward write, before it is added; none if not given.
        activation: of the feed-forward layer: `gelu`, `gelu_tanh` (GPT-2's approximation), `relu`, `silu`,
            or gated: `swiglu`, `geglu`, `geglu_tanh`.
        parallel_residual: attention and feed-forward both read the block's input.
        qk_norm: normalise queries and keys per head.
        use_bias: biases in attention and feed-forward layers.
        qkv_bias: biases of queries, keys and values; as use_bias if not given.
        feed_forward_bias: as use_bias if not given, but none where gated.
        attention_soft_cap: c of a map z -> c tanh(z / c) of attention scores; none if not given.
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
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 2048,
        rotary_pct: float = 0.25,
        rotary_emb_base: float = 10_000.0,
        rotary_scaling: RotaryScaling | None = None,
        position_embeddings: Literal["learned"] | None = None,
        embedding_scale: float | None = None,
        norm: Norm = "layernorm",
        norm_eps: float = 1e-5,
        output_norm: Norm | None = None,
        activation: Activation = "gelu",
        parallel_residual: bool = True,
        qk_norm: bool = False,
        use_bias: bool = True,
        qkv_bias: bool | None = None,
        feed_forward_bias: bool | None = None,
        attention_soft_cap: float | None = None,
        dropout: float = 0.0,
        init: Literal["pythia", "gpt2"] = "pythia",
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        _check(settings)
        settings = self.settings = resolved(settings)
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.embedding_scale = embedding_scale
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        of_blocks = {name: settings[name] for name in signature(Block).parameters}
        self.blocks = nn.ModuleList(Block(**of_blocks) for _ in range(num_hidden_layers))
        self.final_norm = norm_layer(norm, hidden_size, norm_eps)
        self.position_embedding = (
            nn.Embedding(max_position_embeddings, hidden_size) if position_embeddings else None
        )
        for name, table in zip(("cos", "sin"), self.rotary_tables(), strict=True):
            self.register_buffer(name, table, persistent=False)
        self._initialise(init)

    def rotary_tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines by position, each (max_position_embeddings, rotated), float32."""
        rotated = rotated_size(self.settings["head_dim"], self.settings["rotary_pct"])
        base, scaling = self.settings["rotary_emb_base"], self.settings["rotary_scaling"]
        return rotary_table(self.max_position_embeddings, rotated, base, scaling)

    def cache(self) -> Cache:
        """An empty one, to give to `forward` with one part of a text after another."""
        return Cache(len(self.blocks))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """With a `cache`, whose model is in evaluation mode, `tokens` follow those that it has read."""
        return self.trunk(self.embed(tokens, cache.length if cache else 0), cache)

    def read_tree(self, tree: TokenTree) -> Tensor:
        """The hidden state of every node, as if its branch alone had been read: (B, T) -> (B, T, D)."""
        self._check_length(int(tree.positions.max()) + 1)
        return self.trunk(self._embedded(tree.tokens, tree.positions), tree=tree)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, T) -> (B, T, D); the first is at position `start`."""
        end = start + tokens.shape[1]
        self._check_length(end)
        return self._embedded(tokens, slice(start, end))

    def trunk(self, embedded: Tensor, cache: Cache | None = None, tree: TokenTree | None = None) -> Tensor:
        """Everything between the embedding and the head: (B, T, D) -> (B, T, D)."""
        normed: Tensor = self.final_norm(self._residual_stream(embedded, cache, tree)[-1])
        return normed

    def layers(self, tokens: Tensor) -> dict[str, Tensor]:
        """Every hidden state (B, T, D) by name: `0` the embedding, `i` after block i, `head_input`."""
        stream = self._residual_stream(self.embed(tokens))
        states = {str(i): hidden for i, hidden in enumerate(stream)}
        return states | {"head_input": self.final_norm(stream[-1])}

    def _check_length(self, length: int) -> None:
        if length > self.max_position_embeddings:
            raise InputError(
                f"a sequence of {length} tokens is longer than "
                f"max_position_embeddings = {self.max_position_embeddings}"
            )

    def _embedded(self, tokens: Tensor, positions: slice | Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        if self.embedding_scale is not None:
            embedded = embedded * self.embedding_scale
        if self.position_embedding is not None:
            embedded = embedded + self.position_embedding.weight[positions]
        return embedded

    def _residual_stream(
        self, embedded: Tensor, cache: Cache | None = None, tree: TokenTree | None = None
    ) -> list[Tensor]:
        start = cache.length if cache else 0
        positions = tree.positions[:, None] if tree else slice(start, start + embedded.shape[1])
        cos, sin = self.cos[positions], self.sin[positions]
        visible = tree.visible()[:, None] if tree else None
        stream = [self.dropout(embedded)]
        for i, block in enumerate(self.blocks):
            stream.append(block(stream[-1], cos, sin, cache.blocks[i] if cache else None, visible))
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


def resolved(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of `GPT` with those that follow from others worked out."""
    hidden_size, heads, use_bias = (settings[k] for k in ("hidden_size", "num_attention_heads", "use_bias"))
    follows = {
        "num_key_value_heads": heads,
        "head_dim": hidden_size // heads,
        "intermediate_size": 4 * hidden_size,
        "qkv_bias": use_bias,
        "feed_forward_bias": use_bias and not is_gated(settings["activation"]),
    }
    return settings | {name: value for name, value in follows.items() if settings[name] is None}


def _check(settings: dict[str, Any]) -> None:
    for name in SIZES:
        if settings[name] is not None and settings[name] < 1:
            raise InputError(f"{name} is {settings[name]}; it must be at least 1")
    hidden_size, heads, shared = (
        settings[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    if settings["head_dim"] is None and hidden_size % heads:
        raise InputError(
            f"hidden_size {hidden_size} is not divisible by num_attention_heads {heads}; "
            f"choose num_attention_heads from {_divisors(hidden_size)}"
        )
    if shared is not None and heads % shared:
        raise InputError(
            f"num_attention_heads {heads} is not divisible by num_key_value_heads {shared}; "
            f"choose num_key_value_heads from {_divisors(heads)}"
        )
    size = settings["head_dim"] or hidden_size // heads
    if settings["rotary_pct"] > 0 and size < 2:
        raise InputError(
            f"an attention head of size {size} has no two dimensions to rotate; "
            "choose fewer num_attention_heads, or rotary_pct 0 for a model without positions"
        )
    if not 0 <= settings["dropout"] < 1:
        raise InputError(f"dropout is {settings['dropout']}; it must be at least 0 and below 1")
    if not 0 <= settings["rotary_pct"] <= 1:
        raise InputError(f"rotary_pct is {settings['rotary_pct']}; it must be between 0 and 1")
    for name in ("attention_soft_cap", "embedding_scale"):
        if settings[name] is not None and not 0 < settings[name] < math.inf:
            raise InputError(f"{name} is {settings[name]}; it must be positive and finite")


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
