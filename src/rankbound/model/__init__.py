"""The GPT body: tokens to hidden states. It knows nothing about heads."""

from rankbound.model.gpt import GPT

__all__ = ["GPT"]
