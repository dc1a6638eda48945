"""A model from anywhere: a run, an export, a `transformers` checkpoint, a llama2.c binary, the hub.

Design decisions:
- What a source is, is read off the files it holds; there is no flag to say it.
- Nothing that comes with a checkpoint is run: configs are read as data, weights as tensors.
- The model is allocated once and filled tensor by tensor: the most that is held is the model and a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rankbound import runs
from rankbound.errors import InputError
from rankbound.pretrained import llama2c, own
from rankbound.pretrained.families import UnsupportedError, all_families, family_of
from rankbound.pretrained.families.base import fill
from rankbound.pretrained.hub import download, is_hub_id
from rankbound.pretrained.pretrained import Pretrained, begins, ids, read_tokenizer
from rankbound.pretrained.weights import CONFIG, read_json, tensors

__all__ = ["DType", "Pretrained", "load_pretrained"]

DType = Literal["float32", "bfloat16", "float16"]


def load_pretrained(source: str, revision: str | None = None, dtype: DType = "float32") -> Pretrained:
    """Load a model with a body that `GPT` holds, ready to use.

    Args:
        source: a run folder or a checkpoint in one, a folder that `rankbound export` wrote, one of
            `transformers`, a llama2.c binary, or an id on the Hugging Face hub.
        revision: branch, tag or commit on the hub; of a run, a step that it kept: `step1000`.
        dtype: of the weights, whatever they are stored in.

    Raises:
        InputError: no such model, weights that are damaged or not the config's, a tokenizer of another one.
        UnsupportedError: an architecture that `GPT` does not hold; `ForeignModel` reads its states.
    """
    path = Path(source)
    if path.is_file():
        found = _from_file(path, revision)
    elif path.is_dir():
        found = _from_folder(path, revision, source, dtype)
    elif path.suffix != ".ckpt" and is_hub_id(source):
        name = f"{source}@{revision}" if revision else source
        return _from_folder(download(source, revision), None, name, dtype)
    else:
        raise InputError(f"{source} does not exist, and it is no Hugging Face id (owner/name)")
    body = found.model.body
    tables = body.cos, body.sin
    found.model.to(getattr(torch, dtype))
    body.cos, body.sin = tables  # angles stay in float32
    return found


def _from_file(path: Path, revision: str | None) -> Pretrained:
    if revision is not None:
        raise InputError(f"{path} is one file and has no revisions; leave out the revision {revision}")
    if path.suffix == ".ckpt":
        if not (path.parent / runs.CONFIG).is_file():
            raise InputError(f"{path} is in no run folder: its run's {runs.CONFIG} is not beside it")
        return own.from_run(runs.load_run(path.parent), path.name)
    if llama2c.looks_like(path):
        return llama2c.load(path)
    raise InputError(
        f"{path} is neither a checkpoint of a run nor a llama2.c binary; give the folder that holds "
        f"{CONFIG} and the weights"
    )


def _from_folder(path: Path, revision: str | None, name: str, dtype: DType) -> Pretrained:
    if (path / runs.CONFIG).is_file():
        return own.from_run(runs.load_run(path), own.checkpoint_name(revision))
    if revision is not None:
        raise InputError(f"{path} is a folder without revisions; leave out the revision {revision}")
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} holds no model: neither {runs.CONFIG} (a run) nor {CONFIG}")
    config = read_json(path / CONFIG)
    try:
        if config.get("model_type") == own.MODEL_TYPE:
            return own.from_export(path, config, name)
        return _from_family(path, config, name, dtype)
    except UnsupportedError as failure:
        raise UnsupportedError(f"{name} is no model that `GPT` holds: {failure}; {_MEND}") from failure
    except InputError as failure:
        said = str(failure)
        raise InputError(said if said.startswith(name) else f"{name}: {said}") from failure


def _from_family(path: Path, config: Mapping[str, Any], name: str, dtype: DType) -> Pretrained:
    if config.get("quantization_config"):
        raise UnsupportedError("its weights are quantised")
    family = family_of(config)
    try:
        architecture = family.read(config)
        model = architecture.empty(getattr(torch, dtype))
    except KeyError as failure:
        raise InputError(f"{CONFIG} lacks {failure.args[0]}") from failure
    except (TypeError, AttributeError, ZeroDivisionError) as failure:
        raise InputError(
            f"{CONFIG} has a value of the wrong kind: {_suspect(config, failure)}"
        ) from failure
    except (RuntimeError, MemoryError) as failure:  # the allocator's
        raise InputError(f"a model of the sizes in its {CONFIG} does not fit into memory") from failure
    fill(dict(family.slots(model)), tensors(path), family.prefix, architecture.tied)
    context = model.body.max_position_embeddings
    return Pretrained(
        model=model,
        tokenizer=read_tokenizer(path),
        name=name,
        context=min(context, config.get(own.CONTEXT, context)),
        end_of_text=begins(config),
        stops=ids(config.get("eos_token_id")),
    )


def _suspect(config: Mapping[str, Any], failure: Exception) -> str:
    """The size that is no whole number, or what Python says."""
    wrong = (f"{name} is {config[name]!r}" for name in _SIZES if name in config)
    numbers = (isinstance(config[name], int) and config[name] > 0 for name in _SIZES if name in config)
    return next((line for line, right in zip(wrong, numbers, strict=True) if not right), str(failure))


#: Fields of config.json that are whole numbers, in every family that has them.
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions"),
)

_MEND = (
    f"it holds {', '.join(sorted(all_families()))}, and `rankbound diagnose` measures any other "
    "causal model of transformers by its hidden states"
)
