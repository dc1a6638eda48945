"""Windows of text that is made as it is read.

Design decisions:
- A window is a function of (split, seed, index): the numbers behind it are the raw output of a Philox
  generator keyed by them. Batches, ranks and micro batches only choose indices, so none of them changes the
  text, and resuming needs the step alone.
- Training reads windows in order and none twice; the valid split has seed 0 whatever the run's.

Shapes: B windows, T tokens a model reads at once.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rankbound.corpora.generated import Generated
from rankbound.corpora.split import SplitName
from rankbound.corpora.windows import count_windows

_ENDLESS = 1 << 62
_CHUNK = 64  # windows whose true loss is computed at once


class GeneratedWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a language by index, (B,) -> inputs and targets, each (B, window) int64."""

    def __init__(self, corpus: Generated, split: SplitName, window: int, seed: int) -> None:
        self.window = window
        self._corpus = corpus
        self._stream = _stream(split, seed if split == "train" else 0)
        self._length = _ENDLESS
        if split != "train":
            where = f"the {split} split of {corpus.path}"
            self._length = count_windows(corpus.card.valid_tokens, window, where)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        block = self._block(indices)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def order(self, batch_size: int, seed: int) -> Consecutive:
        """Every window once, in order; the seed is in the windows."""
        return Consecutive(batch_size)

    def true_loss(self, windows: int) -> float:
        """Mean nats of the targets of the first windows under the language itself.

        Rounded to 1e-6, so that another machine's last digits do not make it another.
        """
        total = 0.0
        for start in range(0, windows, _CHUNK):
            block = self._block(np.arange(start, min(start + _CHUNK, windows)))
            total += float(self._corpus.language.nll(block).sum())
        return round(total / (windows * self.window), 6)

    def _block(self, indices: NDArray[np.int64]) -> Tensor:
        keys = (np.array([self._stream, i], dtype=np.uint64) for i in indices)
        raw_BT = np.stack([np.random.Philox(key=key).random_raw(self.window + 1) for key in keys])
        uniform_BT = (raw_BT >> 11).astype(np.float64) * 2.0**-53
        return torch.from_numpy(self._corpus.language.sample(uniform_BT))


class Consecutive:
    """Batches of window indices, one after the other."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def batch(self, step: int) -> NDArray[np.int64]:
        """Window indices of a step, shape (batch_size,)."""
        return step * self._batch_size + np.arange(self._batch_size)


def _stream(split: SplitName, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{split} {seed}".encode()).digest()[:8])
