"""Small random checkpoints as `transformers` writes them."""

import json
import struct
from pathlib import Path

import torch
import transformers

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
SHARED = SIZES | {"num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2_SIZES = {
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SEQUENTIAL = {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
BIASED = {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "tie_word_embeddings": True}
INTERPOLATED = {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}}

#: Name -> class of config and its settings.
CONFIGS = {
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "gpt_neox, sequential": ("GPTNeoXConfig", SIZES | SEQUENTIAL | {"hidden_act": "gelu_new"}),
    "gpt2": ("GPT2Config", GPT2_SIZES),
    "gpt2, untied": ("GPT2Config", GPT2_SIZES | {"n_inner": 40, "tie_word_embeddings": False}),
    "llama": ("LlamaConfig", SHARED),
    "llama, one key head": ("LlamaConfig", SIZES | BIASED | {"num_key_value_heads": 1}),
    "llama 3": ("LlamaConfig", SHARED | {"rope_parameters": LLAMA3}),
    "llama, interpolated": ("LlamaConfig", SHARED | INTERPOLATED),
    "mistral": ("MistralConfig", SHARED | {"sliding_window": 40, "head_dim": 8}),
    "qwen2": ("Qwen2Config", SHARED | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", SHARED | {"head_dim": 16}),
    "gemma": ("GemmaConfig", SHARED | {"head_dim": 16}),
    "gemma2": (
        "Gemma2Config",
        SHARED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 40},
    ),
}


def random_model(kind: str, settings: dict, seed: int = 0):
    """A model of a config class with weights large enough that every part of it matters."""
    transformers.utils.logging.disable_progress_bar()
    config = getattr(transformers, kind)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.05, std=0.3, generator=generator)
    return model


def saved(name: str, folder: Path, **how):
    """The model of `CONFIGS` with this name, saved; `how` as of save_pretrained."""
    kind, settings = CONFIGS[name]
    model = random_model(kind, settings)
    model.save_pretrained(folder, **how)
    return model


def log_prob(model, tokens: torch.Tensor) -> torch.Tensor:
    """What `transformers` says."""
    with torch.no_grad():
        return model(tokens).logits.float().log_softmax(-1)


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(path: Path, change) -> None:
    """Rewrite a safetensors file with `change(tensors)`."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def header_length(path: Path) -> int:
    return struct.unpack("<Q", path.read_bytes()[:8])[0]
