"""Gemma, and Gemma 2 within its window: scaled embeddings, norms around each layer, soft caps.

Its norms multiply by 1 + w, which becomes the weight of an ordinary one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import Config, Slots, UnsupportedError, layer
from rankbound.pretrained.families.llama import Llama


class Gemma(Llama):
    """`gemma`."""

    model_types = ("gemma",)
    model_class = "GemmaForCausalLM"
    default_head_dim = 256
    default_tied = True

    def read(self, config: Config) -> Architecture:
        if config.get("use_bidirectional_attention"):
            raise UnsupportedError("attention to later tokens")
        act = config.get("hidden_act", "gelu_pytorch_tanh")
        if act == "gelu":  # what the released configs say, and the released models do not do
            act = "gelu_pytorch_tanh"
        found = super().read({**config, "hidden_act": act, "mlp_bias": False})
        scale = config["hidden_size"] ** 0.5
        return replace(found, body={**found.body, "embedding_scale": scale})

    def norm(self, name: str, module: nn.Module) -> Slots:
        yield from layer(name, module, shift=1.0)


class Gemma2(Gemma):
    """`gemma2`."""

    model_types = ("gemma2",)
    model_class = "Gemma2ForCausalLM"

    def read(self, config: Config) -> Architecture:
        found = super().read({**config, "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh")})
        if config.get("query_pre_attn_scalar", 256) != found.body["head_dim"]:
            raise UnsupportedError("attention scores scaled otherwise than by the size of a head")
        cap = config.get("attn_logit_softcapping", 50.0)
        body = {**found.body, "output_norm": "rmsnorm", "attention_soft_cap": cap}
        return replace(found, body=body, soft_cap=config.get("final_logit_softcapping", 30.0))

    def sliding_window(self, config: Config) -> int | None:
        tokens: int | None = config.get("sliding_window", 4096)
        return tokens

    def write(self, architecture: Architecture) -> dict[str, Any]:
        config, body = super().write(architecture), architecture.settings
        return config | {
            "hidden_activation": config["hidden_act"],
            "query_pre_attn_scalar": body["head_dim"],
            "sliding_window": body["max_position_embeddings"],
            "attn_logit_softcapping": body["attention_soft_cap"],
            "final_logit_softcapping": architecture.soft_cap,
        }

    def norms(self, at: str, block: Any) -> Slots:
        yield from self.norm(f"{at}.input_layernorm", block.attention_norm)
        yield from self.norm(f"{at}.post_attention_layernorm", block.attention_out_norm)
        yield from self.norm(f"{at}.pre_feedforward_layernorm", block.feed_forward_norm)
        yield from self.norm(f"{at}.post_feedforward_layernorm", block.feed_forward_out_norm)
