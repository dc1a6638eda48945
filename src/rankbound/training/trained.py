"""A trained model from its run folder, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from rankbound.errors import InputError
from rankbound.parser import Parser
from rankbound.runs import LAST_CHECKPOINT, Run
from rankbound.training.checkpoint_io import damage
from rankbound.training.language_model import LanguageModel
from rankbound.training.module import Pretraining


def trained_model(run: Run, checkpoint: str = LAST_CHECKPOINT) -> LanguageModel:
    """The model of a run with a checkpoint's weights, on the CPU, in evaluation mode.

    Args:
        run: the run, finished or not.
        checkpoint: name of the file in its folder, such as `step=1000.ckpt`.

    Raises:
        InputError: no such file, or one that is not of this run's model.
    """
    path = run.path / checkpoint
    if not path.is_file():
        kept = ", ".join(sorted(p.name for p in run.path.glob("*.ckpt"))) or "none"
        raise InputError(f"there is no {path}; checkpoints of the run: {kept}")
    if problem := damage(path):
        raise InputError(f"{path} is damaged: {problem}")
    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(Pretraining, "model")
    module: Pretraining = parser.instantiate(parser.parse_object({"model": run.config["model"]})).model
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    try:
        module.load_state_dict(saved["state_dict"])
    except RuntimeError as other:
        raise InputError(
            f"{path} does not hold this run's model: {' '.join(str(other).split())}"
        ) from other
    return module.model.eval()
