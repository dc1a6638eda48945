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


def weights_sha256(model: LanguageModel) -> str:
    """One name for all weights: names, dtypes and shapes count, where they came from does not."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.cpu().flatten().numpy().data)
    return digest.hexdigest()
