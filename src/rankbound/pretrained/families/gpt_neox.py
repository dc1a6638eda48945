"""GPT-NeoX: Pythia and this project's default body."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rankbound.model.attention import Attention
from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import (
    Config,
    Family,
    Slot,
    Slots,
    activation,
    activation_written,
    blocks,
    heads,
    layer,
    rotary,
    rotary_written,
    untied_head,
)
from rankbound.training.language_model import LanguageModel


class GPTNeoX(Family):
    """`gpt_neox`."""

    model_types = ("gpt_neox",)
    model_class = "GPTNeoXForCausalLM"
    prefix = "gpt_neox."

    def read(self, config: Config) -> Architecture:
        sizes = heads(config)
        bias = config.get("attention_bias", True)
        share, base = config.get("rotary_pct", 0.25), config.get("rotary_emb_base", 10_000)
        body = {
            **sizes,
            **rotary(config, sizes["head_dim"], share, base),
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "num_hidden_layers": config["num_hidden_layers"],
            "intermediate_size": config["intermediate_size"],
            "max_position_embeddings": config.get("max_position_embeddings", 2048),
            "norm_eps": config.get("layer_norm_eps", 1e-5),
            "activation": activation(config.get("hidden_act", "gelu")),
            "parallel_residual": config.get("use_parallel_residual", True),
            "use_bias": bias,
            "qkv_bias": bias,
            "feed_forward_bias": True,
        }
        return Architecture(body, tied=config.get("tie_word_embeddings", False))

    def write(self, architecture: Architecture) -> dict[str, Any]:
        body = architecture.settings
        rope = rotary_written(body)
        return {
            "model_type": self.model_types[0],
            "vocab_size": body["vocab_size"],
            "hidden_size": body["hidden_size"],
            "num_hidden_layers": body["num_hidden_layers"],
            "num_attention_heads": body["num_attention_heads"],
            "intermediate_size": body["intermediate_size"],
            "max_position_embeddings": body["max_position_embeddings"],
            "layer_norm_eps": body["norm_eps"],
            "hidden_act": activation_written(body["activation"]),
            "use_parallel_residual": body["parallel_residual"],
            "attention_bias": body["qkv_bias"],
            "rope_parameters": rope,
            "rotary_pct": rope["partial_rotary_factor"],
            "rotary_emb_base": rope["rope_theta"],
            "tie_word_embeddings": architecture.tied,
        }

    def slots(self, model: LanguageModel) -> Slots:
        body = model.body
        yield from layer("gpt_neox.embed_in", body.embedding)
        for i, block in enumerate(blocks(model)):
            at = f"gpt_neox.layers.{i}"
            yield from layer(f"{at}.input_layernorm", block.attention_norm)
            yield from layer(f"{at}.post_attention_layernorm", block.feed_forward_norm)
            for kind, fused in block.attention.query_key_value.named_parameters():
                yield f"{at}.attention.query_key_value.{kind}", _by_head(fused, block.attention)
            yield from layer(f"{at}.attention.dense", block.attention.out)
            yield from layer(f"{at}.mlp.dense_h_to_4h", block.feed_forward.inner)
            yield from layer(f"{at}.mlp.dense_4h_to_h", block.feed_forward.out)
        yield from layer("gpt_neox.final_layer_norm", body.final_norm)
        yield from untied_head("embed_out", model)


def _by_head(fused: Tensor, attention: Attention) -> Slot:
    """Its fused rows are (head, three, size), ours (three, head, size)."""
    rows = fused.detach().view(3, attention.num_attention_heads, attention.head_dim, *fused.shape[1:])
    return Slot(rows.transpose(0, 1), tuple(fused.shape))
