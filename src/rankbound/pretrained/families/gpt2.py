"""GPT-2: learned positions, matrices stored transposed."""

from __future__ import annotations

from typing import Any

from torch import nn

from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import (
    Config,
    Family,
    Slot,
    Slots,
    UnsupportedError,
    activation,
    activation_written,
    blocks,
    layer,
    untied_head,
)
from rankbound.training.language_model import LanguageModel


class GPT2(Family):
    """`gpt2`."""

    model_types = ("gpt2",)
    model_class = "GPT2LMHeadModel"
    prefix = "transformer."

    def read(self, config: Config) -> Architecture:
        if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
            raise UnsupportedError("attention scores scaled by layer, or not at all")
        if config.get("add_cross_attention"):
            raise UnsupportedError("cross-attention")
        body = {
            "vocab_size": config["vocab_size"],
            "hidden_size": config["n_embd"],
            "num_hidden_layers": config["n_layer"],
            "num_attention_heads": config["n_head"],
            "intermediate_size": config.get("n_inner"),
            "max_position_embeddings": config["n_positions"],
            "position_embeddings": "learned",
            "rotary_pct": 0.0,
            "norm_eps": config.get("layer_norm_epsilon", 1e-5),
            "activation": activation(config.get("activation_function", "gelu_new")),
            "parallel_residual": False,
        }
        return Architecture(body, tied=config.get("tie_word_embeddings", True))

    def write(self, architecture: Architecture) -> dict[str, Any]:
        body = architecture.settings
        return {
            "model_type": self.model_types[0],
            "vocab_size": body["vocab_size"],
            "n_embd": body["hidden_size"],
            "n_layer": body["num_hidden_layers"],
            "n_head": body["num_attention_heads"],
            "n_inner": body["intermediate_size"],
            "n_positions": body["max_position_embeddings"],
            "layer_norm_epsilon": body["norm_eps"],
            "activation_function": activation_written(body["activation"]),
            "tie_word_embeddings": architecture.tied,
        }

    def slots(self, model: LanguageModel) -> Slots:
        body = model.body
        assert body.position_embedding is not None
        yield from layer("transformer.wte", body.embedding)
        yield from layer("transformer.wpe", body.position_embedding)
        for i, block in enumerate(blocks(model)):
            at = f"transformer.h.{i}"
            yield from layer(f"{at}.ln_1", block.attention_norm)
            yield from layer(f"{at}.ln_2", block.feed_forward_norm)
            yield from _transposed(f"{at}.attn.c_attn", block.attention.query_key_value)
            yield from _transposed(f"{at}.attn.c_proj", block.attention.out)
            yield from _transposed(f"{at}.mlp.c_fc", block.feed_forward.inner)
            yield from _transposed(f"{at}.mlp.c_proj", block.feed_forward.out)
        yield from layer("transformer.ln_f", body.final_norm)
        yield from untied_head("lm_head", model)


def _transposed(name: str, linear: nn.Linear) -> Slots:
    yield f"{name}.weight", Slot.of(linear.weight.T)
    yield f"{name}.bias", Slot.of(linear.bias)
