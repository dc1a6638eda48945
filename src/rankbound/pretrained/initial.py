"""The weights of a trained model for a run of `fit`.

Design decisions:
- The run's settings stay what they are. Body and head must be the model's own; all that differs is named.
- Tokens are matched by their text. A corpus ends documents with id 0 and has no ids without a token; a
  model from elsewhere may do otherwise, so the rows of its embedding and linear head are put into the
  corpus's order, and rows that no token of the corpus has are left out.
- Loading draws no random numbers of the run's: it trains alike from an export and from the run behind it.
"""

from __future__ import annotations

from typing import Any

import torch

from rankbound.corpora import Corpus
from rankbound.corpora.generated import Generated
from rankbound.errors import InputError
from rankbound.pretrained.families.architecture import Architecture, what_it_computes
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.pretrained import Pretrained
from rankbound.training.language_model import LanguageModel


def start_from(source: str, model: LanguageModel, corpus: Corpus | Generated) -> None:
    """Give `model` the weights of a trained one, in the ids of `corpus`.

    Args:
        source: what `load_pretrained` takes.
        model: of the run; overwritten.
        corpus: what the run reads.

    Raises:
        InputError: no such model, another body or head, tokens that the model does not know.
    """
    with torch.random.fork_rng(devices=[]):
        found = load_pretrained(source)
    state = found.model.state_dict()
    ids = _ids(found, corpus)
    if ids is not None:
        if Architecture.of(found.model) is None:
            raise InputError(
                f"the tokens of {found.name} have other ids than those of {corpus.path}, and only a linear "
                "head's rows can be put into another order: prepare it with the model's own --tokenizer"
            )
        of_tokens = [name for name in state if name.startswith("head.") or name == "body.embedding.weight"]
        state |= {name: state[name][ids] for name in of_tokens}
    if differing := _differing(found.model, model, ids is not None):
        raise InputError(
            f"the weights of {found.name} do not fit this run: {', '.join(differing)}; take the model's "
            "settings, which --config FOLDER/training.yaml of an export has"
        )
    model.load_state_dict(state)


def _differing(theirs: LanguageModel, ours: LanguageModel, reordered: bool) -> list[str]:
    """Settings that are not the same, as `name here (there)`."""
    bodies = [_settings(model) for model in (ours, theirs)]
    if reordered:
        for body in bodies:
            del body["vocab_size"]
    here, there = bodies
    named = [f"{name} {here[name]} (theirs {there[name]})" for name in here if here[name] != there[name]]
    shapes = [{name: value.shape for name, value in m.head.state_dict().items()} for m in (ours, theirs)]
    if not named and not reordered and shapes[0] != shapes[1]:
        named = ["the shape of the head"]
    return named


def _settings(model: LanguageModel) -> dict[str, Any]:
    """Of the map that the model computes, without what has no weights."""
    settings = what_it_computes(model.body.settings)
    if settings["position_embeddings"] is None:
        del settings["max_position_embeddings"]  # only how long a table is computed
    tied = any(parameter is model.body.embedding.weight for parameter in model.head.parameters())
    return settings | {"head": model.head.label(), "tie_word_embeddings": tied}


def _ids(found: Pretrained, corpus: Corpus | Generated) -> torch.Tensor | None:
    """The model's id of each id of the corpus, (V,); None where they are the same or have no text."""
    if found.tokenizer is None or isinstance(corpus, Generated):
        return None
    if corpus.card.kept_tokens is not None:
        raise InputError(
            f"{corpus.path} has ids of its own for the commonest tokens, which {found.name} does not know: "
            "prepare it without --tokens_only_top"
        )
    theirs, ours = found.tokenizer.get_vocab(), corpus.tokenizer.get_vocab()
    if unknown := [token for token in ours if token not in theirs]:
        raise InputError(
            f"{corpus.path} has {len(unknown):,} tokens that {found.name} does not know, such as "
            f"{unknown[0]!r}: prepare it with that model's own --tokenizer"
        )
    size = found.model.body.embedding.num_embeddings
    ids = torch.arange(corpus.vocab_size).clamp(max=size - 1)  # an id that no token has keeps any row
    for token, token_id in ours.items():
        ids[token_id] = theirs[token]
    return None if torch.equal(ids, torch.arange(size)) else ids
