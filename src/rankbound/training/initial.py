"""`fit --init_weights`: a run that starts from a trained model instead of random weights.

Design decisions:
- What reads models of all kinds stands above training; the command line hands it in as a function.
- The weights themselves are named by their sha256 in `derived`, as the corpus is by its own: the same path
  with another model in it is not the same run.
- A run that is resumed has its weights in the checkpoint, and what it once started from may be gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rankbound.corpora import Corpus
from rankbound.corpora.generated import Generated
from rankbound.errors import InputError
from rankbound.training.language_model import LanguageModel

#: Gives a run's model the weights that a source (path or id) names, in the ids of the run's corpus.
StartFrom = Callable[[str, LanguageModel, Corpus | Generated], None]

#: Where `derived` keeps which weights they were.
INITIAL = "init_weights_sha256"


def start(settings: Any, model: LanguageModel, corpus: Corpus | Generated, start_from: StartFrom) -> None:
    """Set the weights that a run starts from, as its settings say; random ones stay where they say nothing.

    Raises:
        InputError: no such model, one that does not fit the run's, or not the recorded weights.
    """
    source = settings.init_weights
    if source is None or settings.ckpt_path is not None:
        return
    start_from(source, model, corpus)
    derived = settings.derived or {}
    found = weights_sha256(model)
    if derived.get(INITIAL, found) != found:
        raise InputError(
            f"init_weights {source} no longer holds the weights that the config was recorded with "
            f"(derived.{INITIAL}); remove `derived` from the config to start from those it holds now"
        )
    settings.derived = {**derived, INITIAL: found}


def weights_sha256(model: nn.Module) -> str:
    """One name for all weights, a tied one once: names, dtypes and shapes count, their source does not."""
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        bytes_of = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(bytes_of.numpy().data)
    return digest.hexdigest()
