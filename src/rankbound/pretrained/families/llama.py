"""Llama and what is built like it: SmolLM and TinyLlama are `llama`; Mistral within its window."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from rankbound.model.rotary import rotated_size
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
    heads,
    layer,
    rotary,
    rotary_written,
    separate_projections,
    untied_head,
    window,
)
from rankbound.training.language_model import LanguageModel


class Llama(Family):
    """`llama` and `mistral`; base of families that share its tensors' names."""

    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    model_class = "LlamaForCausalLM"
    prefix = "model."

    #: Of `head_dim` and `tie_word_embeddings`, where a config leaves them out.
    default_head_dim: ClassVar[int | None] = None
    default_tied: ClassVar[bool] = False

    def read(self, config: Config) -> Architecture:
        sizes = heads(config, self.default_head_dim)
        rope = rotary(config, sizes["head_dim"])
        if rotated_size(sizes["head_dim"], rope["rotary_pct"]) != sizes["head_dim"]:
            raise UnsupportedError("a part of each head rotated, which llama's own code does not do")
        bias = bool(config.get("attention_bias", False))
        body = {
            **sizes,
            **rope,
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "num_hidden_layers": config["num_hidden_layers"],
            "intermediate_size": config["intermediate_size"],
            "max_position_embeddings": window(config, self.sliding_window(config)),
            "norm": "rmsnorm",
            "norm_eps": config.get("rms_norm_eps", 1e-6),
            "activation": activation(config.get("hidden_act", "silu"), gated=True),
            "parallel_residual": False,
            "use_bias": bias,
            "qkv_bias": bias,
            "feed_forward_bias": bool(config.get("mlp_bias", False)),
        }
        return Architecture(body, tied=config.get("tie_word_embeddings", self.default_tied))

    def sliding_window(self, config: Config) -> int | None:
        """Tokens that attention sees at most; None for all."""
        tokens: int | None = config.get("sliding_window")
        return tokens

    def write(self, architecture: Architecture) -> dict[str, Any]:
        body = architecture.settings
        rope = rotary_written(body)
        return {
            "model_type": self.model_types[0],
            "vocab_size": body["vocab_size"],
            "hidden_size": body["hidden_size"],
            "num_hidden_layers": body["num_hidden_layers"],
            "num_attention_heads": body["num_attention_heads"],
            "num_key_value_heads": body["num_key_value_heads"],
            "head_dim": body["head_dim"],
            "intermediate_size": body["intermediate_size"],
            "max_position_embeddings": body["max_position_embeddings"],
            "rms_norm_eps": body["norm_eps"],
            "hidden_act": activation_written(body["activation"]),
            "attention_bias": body["use_bias"],
            "mlp_bias": body["feed_forward_bias"],
            "rope_parameters": rope,
            "rope_theta": rope["rope_theta"],
            "tie_word_embeddings": architecture.tied,
        }

    def slots(self, model: LanguageModel) -> Slots:
        yield from layer("model.embed_tokens", model.body.embedding)
        for i, block in enumerate(blocks(model)):
            at = f"model.layers.{i}"
            yield from self.attention(f"{at}.self_attn", block.attention)
            yield from self.norms(at, block)
            gate_inner = block.feed_forward.gate_inner
            for kind, fused in gate_inner.named_parameters():
                for name, part in zip(("gate", "up"), fused.chunk(2), strict=True):
                    yield f"{at}.mlp.{name}_proj.{kind}", Slot.of(part)
            yield from layer(f"{at}.mlp.down_proj", block.feed_forward.out)
        yield from self.norm("model.norm", model.body.final_norm)
        yield from untied_head("lm_head", model)

    def attention(self, at: str, attention: Any) -> Slots:
        """Of one block."""
        yield from separate_projections(f"{at}.{{}}_proj", attention)
        yield from layer(f"{at}.o_proj", attention.out)

    def norms(self, at: str, block: Any) -> Slots:
        """Of one block, but those inside attention."""
        yield from self.norm(f"{at}.input_layernorm", block.attention_norm)
        yield from self.norm(f"{at}.post_attention_layernorm", block.feed_forward_norm)

    def norm(self, name: str, module: nn.Module) -> Slots:
        """One norm."""
        yield from layer(name, module)
