"""Windows of a token stream and the order in which training reads them.

Design decisions:
- Window i of length T covers tokens [i*T, i*T + T]: T inputs and the T targets one further.
  Neighbours share one token, every token but the first is a target at most once an epoch.
- The order is a stateless function of (seed, step): resuming needs the step and nothing else.
- An epoch's permutation sorts the raw output of a Philox generator keyed by (seed, epoch). NumPy
  keeps that stream fixed over versions, which it does not promise of `Generator.permutation`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankbound.errors import InputError


def count_windows(tokens: int, window: int, where: str) -> int:
    """Windows in a stream of `tokens`; `InputError` names `where` if there is not even one."""
    if tokens <= window:
        raise InputError(
            f"{where} has {tokens} tokens, one window of {window} needs {window + 1}: "
            "choose a smaller window or a larger corpus"
        )
    return (tokens - 1) // window


class SampleOrder:
    """Batches of window indices: permutations of all windows, a new one each epoch, end to end.

    A batch may cross the border of two epochs; within an epoch no window comes twice.
    """

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        self.num_windows = num_windows
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def batch(self, step: int) -> NDArray[np.int64]:
        """Window indices of a step, shape (batch_size,)."""
        first, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while (
            first < end
        ):  # a slice an epoch: after a training step small NumPy operations take 0.1 ms each
            epoch, at = divmod(first, self.num_windows)
            parts.append(self._permutation(epoch)[at : at + end - first])
            first += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:  # a batch on a border needs two
                del self._epochs[min(self._epochs)]
            key = np.array([self.seed % 2**64, epoch], dtype=np.uint64)
            raw = np.random.Philox(key=key).random_raw(self.num_windows)
            self._epochs[epoch] = np.argsort(raw, kind="stable")
        return self._epochs[epoch]
