"""Models of this project: runs, and exports of those that no family of `transformers` holds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from rankbound.corpora.corpus import CARD, Corpus
from rankbound.corpora.generated import Generated, open_corpus
from rankbound.corpora.tokenizer import END_OF_TEXT_ID
from rankbound.errors import InputError
from rankbound.model import GPT
from rankbound.parser import Parser
from rankbound.pretrained.families.base import Slot, fill
from rankbound.pretrained.pretrained import Pretrained, read_tokenizer
from rankbound.pretrained.weights import CONFIG, tensors
from rankbound.runs import LAST_CHECKPOINT, STEP_CHECKPOINT, Run
from rankbound.training.language_model import LanguageModel
from rankbound.training.module import Pretraining
from rankbound.training.trained import trained_model

MODEL_TYPE = "rankbound"
#: Key of an exported config.json: tokens that the model was trained to read at once.
CONTEXT = "trained_context"

_STEP = re.compile(r"(?:step[=_]?)?(\d+)(?:\.ckpt)?")
_HEADS = "rankbound.heads."


def checkpoint_name(revision: str | None) -> str:
    """The file of a run's checkpoint at a revision such as `step1000`, `step=1000` or `1000`."""
    if revision is None:
        return LAST_CHECKPOINT
    step = _STEP.fullmatch(revision)
    return STEP_CHECKPOINT.format(step=step[1]) if step else revision


def from_run(run: Run, checkpoint: str) -> Pretrained:
    """A run's model, with the tokenizer of its corpus as long as that is where it was."""
    model = trained_model(run, checkpoint)
    corpus = _corpus(run)
    whole = isinstance(corpus, Corpus) and corpus.card.kept_tokens is None
    end = None if isinstance(corpus, Generated) else END_OF_TEXT_ID
    step = _STEP.fullmatch(checkpoint)
    return Pretrained(
        model=model,
        tokenizer=read_tokenizer(corpus.path) if corpus and whole else None,
        name=run.path.resolve().name + (f"@step{step[1]}" if step else ""),
        context=min(run.config["data"]["window"], model.body.max_position_embeddings),
        end_of_text=end,
        stops=() if end is None else (end,),
        settings=model_settings(run.config["model"]),
        run=run,
        step=int(step[1]) if step else None,
    )


def from_export(folder: Path, config: Mapping[str, Any], name: str) -> Pretrained:
    """What `export` wrote in this project's own format."""
    try:
        settings, context, end = config["model"], config[CONTEXT], config["eos_token_id"]
        _check_heads(settings)
        parser = Parser(exit_on_error=False)
        parser.add_class_arguments(Pretraining, "model")
        parsed = parser.parse_object({"model": settings})
    except (KeyError, TypeError, ArgumentError) as failure:
        why = " ".join(str(failure).split())[:200]
        raise InputError(
            f"{CONFIG} is damaged or of another version ({why}): export the model again"
        ) from (failure)
    module: Pretraining = parser.instantiate(parsed).model
    model = module.model.eval()
    fill(slots(model), tensors(folder), prefix="", tied=False)
    stops = () if end is None else (end,)
    return Pretrained(model, read_tokenizer(folder), name, context, end, stops, settings)


def slots(model: LanguageModel) -> dict[str, Slot]:
    """Every tensor of a model by its own name; a tied one once."""
    saved = model.state_dict()
    shared = dict(model.named_parameters(remove_duplicate=False))
    unshared = dict(model.named_parameters())
    return {name: Slot.of(value) for name, value in saved.items() if name in unshared or name not in shared}


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's model settings that say what the model is, not how it is trained."""
    names = ("head", "tie_word_embeddings", *inspect.signature(GPT).parameters)
    return {name: settings[name] for name in names if name in settings}


def _corpus(run: Run) -> Corpus | Generated | None:
    """The corpus of a run, if it is where it was; `InputError` where another is in its place."""
    path = Path(run.config["data"]["corpus"])
    if not (path / CARD).is_file():
        return None
    corpus = open_corpus(path)
    expected = run.config["data"].get("corpus_sha256")
    if expected not in (None, corpus.sha256):
        raise InputError(
            f"{path} is no longer the corpus that {run.path} was trained on, so its tokenizer may be "
            "another: move it away to load the model without one"
        )
    return corpus


def _check_heads(settings: Any) -> None:
    """Only heads of this project are made from a config that came with weights."""
    if isinstance(settings, Mapping):
        path = settings.get("class_path")
        if path is not None and not str(path).startswith(_HEADS):
            raise InputError(f"its head {path} is not one of rankbound.heads, and no other code is run")
        for value in settings.values():
            _check_heads(value)
