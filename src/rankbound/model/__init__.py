"""The GPT body: tokens to hidden states. It knows nothing about heads."""

from rankbound.model.cache import Cache
from rankbound.model.gpt import GPT
from rankbound.model.rotary import RotaryScaling

__all__ = ["GPT", "Cache", "RotaryScaling"]
