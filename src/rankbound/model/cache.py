"""Keys and values of the tokens read so far, so that each new token is read once.

Buffers double when they are full: appending copies each position once or twice in all, and what a model
could read at most is not allocated before it is read.
"""

from __future__ import annotations

from torch import Tensor


class KeyValues:
    """What one block's attention keeps: keys and values (B, G, S, E) of the S positions so far."""

    def __init__(self) -> None:
        self.length = 0
        self._buffer: Tensor | None = None  # (2, B, G, capacity, E)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of T new positions, (B, G, T, E) each; returns all, (B, G, S + T, E) each."""
        start, self.length = self.length, self.length + key.shape[2]
        if self._buffer is None or self._buffer.shape[3] < self.length:
            batch, groups, _, size = key.shape
            grown = key.new_empty(2, batch, groups, max(64, 2 * self.length), size)
            if self._buffer is not None:
                grown[:, :, :, :start] = self._buffer[:, :, :, :start]
            self._buffer = grown
        self._buffer[0, :, :, start : self.length] = key
        self._buffer[1, :, :, start : self.length] = value
        return self._buffer[0, :, :, : self.length], self._buffer[1, :, :, : self.length]


class Cache:
    """One text's, or a batch of texts' of equal length: `GPT.cache()` makes it, `GPT.forward` fills it.

    >>> import torch
    >>> from rankbound.model import GPT
    >>> body = GPT(50, hidden_size=16).eval()
    >>> text, cache = torch.arange(9)[None], body.cache()
    >>> with torch.inference_mode():
    ...     first, rest = body(text[:, :5], cache), body(text[:, 5:], cache)
    >>> cache.length, rest.shape
    (9, torch.Size([1, 4, 16]))
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = [KeyValues() for _ in range(blocks)]

    @property
    def length(self) -> int:
        """Positions read so far."""
        return self.blocks[0].length
