"""Qwen2 (biases of queries, keys and values) and Qwen3 (these normalised by head instead)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import Config, Slots, layer
from rankbound.pretrained.families.llama import Llama


class Qwen2(Llama):
    """`qwen2`."""

    model_types = ("qwen2",)
    model_class = "Qwen2ForCausalLM"

    def read(self, config: Config) -> Architecture:
        fixed = {"qkv_bias": True, "use_bias": False, "feed_forward_bias": False}
        found = super().read(config)
        return replace(found, body={**found.body, **fixed})

    def sliding_window(self, config: Config) -> int | None:
        return config.get("sliding_window") if config.get("use_sliding_window") else None


class Qwen3(Llama):
    """`qwen3`."""

    model_types = ("qwen3",)
    model_class = "Qwen3ForCausalLM"
    default_head_dim = 128

    def read(self, config: Config) -> Architecture:
        found = super().read(config)
        return replace(found, body={**found.body, "qk_norm": True, "feed_forward_bias": False})

    def sliding_window(self, config: Config) -> int | None:
        return config.get("sliding_window") if config.get("use_sliding_window") else None

    def attention(self, at: str, attention: Any) -> Slots:
        yield from super().attention(at, attention)
        yield from layer(f"{at}.q_norm", attention.query_norm)
        yield from layer(f"{at}.k_norm", attention.key_norm)
