"""When layers become what they will be: similarity of states to the final ones.

States on the probe set are kept at each step that is due and compared at the end, since what a run ends in
is not known before. They are float32 files in the run folder and stay there: a run that is resumed from an
earlier checkpoint needs them again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound import runs
from rankbound.errors import InputError
from rankbound.metrics.similarity import linear_cka
from rankbound.training.measurements.base import Measurement, Reading
from rankbound.training.observed import Observed
from rankbound.training.when import When

States = NDArray[np.float32]


class Convergence(Measurement):
    """Linear CKA of every layer's states with the final ones, written at the end for each step kept.

    Of a run that is continued beyond its end the later rows of a step count.

    Args:
        modules: dotted names of modules whose outputs are compared too; of this project's models, each
            block's attention and feed-forward layer if not given.
        rows: positions of the probe set, the first so many.
        unbiased: the estimator without a bias at few rows.
        when: the steps to keep; the recorder's if not given.
    """

    needs_end = True

    def __init__(
        self,
        modules: Sequence[str] | None = None,
        rows: int = 1024,
        unbiased: bool = True,
        when: When | None = None,
    ) -> None:
        super().__init__(when)
        if when is not None and not when.end:
            raise InputError("Convergence compares with the last step; its when.end must be true")
        if rows < 4:
            raise InputError(f"Convergence's rows is {rows}; the unbiased estimator needs at least 4")
        self.modules, self.rows, self.unbiased = modules, rows, unbiased

    def __call__(self, seen: Observed) -> Reading:
        states = {layer: seen.rows(layer) for layer in seen.states}
        states |= seen.outputs(seen.circuits() if self.modules is None else self.modules)
        now = {name: rows[: self.rows].float().cpu().numpy() for name, rows in states.items()}
        runs.save_states(seen.run_dir, seen.step, now)
        if not seen.last:
            return Reading()
        earlier = {
            step: {f"convergence/{name}/cka": self._cka(then[name], now[name]) for name in now}
            for step, then in runs.saved_states(seen.run_dir)
            if step < seen.step
        }
        return Reading(earlier=earlier)

    def _cka(self, then: States, now: States) -> Tensor:
        return linear_cka(torch.from_numpy(then), torch.from_numpy(now), unbiased=self.unbiased)
