"""Models out: a folder that `transformers` loads, or safetensors with their settings.

Design decisions:
- A model with a linear head goes into a family of `transformers` that holds its body exactly (the default
  body is GPT-NeoX), so that everything which reads that family reads it. Any other goes out as it is, with
  a few lines of Python that load it with this package.
- The folder is written beside its place and renamed: there is all of it or nothing. What stands in its
  place already is left alone.
- `load_pretrained` reads both kinds back, and `training.yaml` has the settings to train on from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rankbound.errors import InputError
from rankbound.pretrained import own
from rankbound.pretrained.card import model_card
from rankbound.pretrained.families import Architecture, fitting_family
from rankbound.pretrained.families.base import Slot
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.pretrained import TOKENIZER, Pretrained
from rankbound.pretrained.weights import CONFIG, SAFETENSORS

TRAINING, LOADER, CARD = "training.yaml", "load.py", "README.md"

_LOADER = '''"""Load this model: `from load import model`, or run this file."""

from pathlib import Path

from rankbound.pretrained.load import load_pretrained  # pip install rankbound

pretrained = load_pretrained(str(Path(__file__).resolve().parent))
model = pretrained.model  # tokens (B, T) -> log-probabilities of the next token (B, T, V)

if __name__ == "__main__":
    print(model)
'''


def export(source: str | Path | Pretrained, output: Path, revision: str | None = None) -> Path:
    """Write a model as a folder and return it.

    Args:
        source: what `load_pretrained` takes, or what it gave.
        output: the new folder.
        revision: as of `load_pretrained`.

    Raises:
        InputError: no such model, or something stands at `output`.
    """
    output = Path(output)
    if output.exists():
        raise InputError(f"{output} exists already: remove it or name another --output")
    found = source if isinstance(source, Pretrained) else load_pretrained(str(source), revision)
    with _new_folder(output) as folder:
        _write(found, folder)
    return output


def _write(found: Pretrained, folder: Path) -> None:
    architecture = Architecture.of(found.model)
    fitting = fitting_family(architecture) if architecture else None
    if fitting:
        family, config = fitting
        config = {"architectures": [family.model_class], "dtype": "float32", **config}
        slots = dict(family.slots(found.model))
    else:
        config = {"model_type": own.MODEL_TYPE, "model": _settings(found)}
        slots = own.slots(found.model)
        (folder / LOADER).write_text(_LOADER, encoding="utf-8")
    _save(slots, folder / SAFETENSORS)
    stops = list(found.stops)
    ends = {
        "bos_token_id": found.end_of_text,
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
        own.CONTEXT: found.context,
    }
    _write_json(folder / CONFIG, config | ends)
    _write_tokenizer(found, folder)
    training = {"model": {k: v for k, v in _settings(found).items() if k != "vocab_size"}}  # the corpus's
    (folder / TRAINING).write_text(yaml.safe_dump(training, sort_keys=False), encoding="utf-8")
    (folder / CARD).write_text(model_card(found, native=fitting is not None), encoding="utf-8")


def _save(slots: Mapping[str, Slot], path: Path) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {name: slot.tensor() for name, slot in slots.items()}
    with torch.no_grad():
        save_file(tensors, path, metadata={"format": "pt"})


def _settings(found: Pretrained) -> dict[str, Any]:
    """Settings of the model as `fit` takes them."""
    if found.settings is not None:
        return dict(found.settings)
    architecture = Architecture.of(found.model)
    assert architecture is not None  # what came from elsewhere has a linear head
    body = dict(architecture.settings)
    if (scaling := body["rotary_scaling"]) is not None:
        body["rotary_scaling"] = dict(vars(scaling))
    head: dict[str, Any] = {
        "class_path": "rankbound.heads.Linear",
        "init_args": {"bias": architecture.bias},
    }
    if architecture.soft_cap is not None:
        capped = {"inner": head, "cap": architecture.soft_cap}
        head = {"class_path": "rankbound.heads.SoftCap", "init_args": capped}
    return {**body, "head": head, "tie_word_embeddings": architecture.tied}


def _write_tokenizer(found: Pretrained, folder: Path) -> None:
    """tokenizer.json, and what `transformers` needs to read it."""
    tokenizer = found.tokenizer
    if tokenizer is None:
        return
    tokenizer.save(str(folder / TOKENIZER))
    named = {"bos_token": found.end_of_text, "eos_token": found.stops[0] if found.stops else None}
    special = {
        name: token
        for name, token_id in named.items()
        if token_id is not None and (token := tokenizer.id_to_token(token_id)) is not None
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": found.context,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name if all goes well and is removed if not."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except OSError as failure:
        raise InputError(f"cannot write {output}: {failure.strerror or failure}") from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)
