"""A tokenizer from elsewhere: a tokenizer.json, a folder that holds one, or a Hugging Face id.

Design decisions:
- Id 0 ends a document everywhere in this package, so its end-of-text token trades ids with whatever
  had id 0. All other ids stay, and the file written into the corpus has the trade in it.
- Templates that put tokens around a text, truncation and padding are dropped: packing needs none.
- A text is ordinary text here as well: a tokenizer that would read the end of a document out of a
  text that spells it is refused, not trusted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rankbound.corpora.tokenizer import END_OF_TEXT, END_OF_TEXT_ID
from rankbound.errors import InputError

ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
_FILE = "tokenizer.json"
_UNLIKELY = 30  # times the lowest unigram score: no text takes the piece while it has another way


def pretrained_tokenizer(name: str, end_of_text: str | None = None) -> Tokenizer:
    """Read the tokenizer `name` and make id 0 its end of text.

    Args:
        name: Path of a tokenizer.json or of its folder, or an id on the Hugging Face hub.
        end_of_text: The token that ends a document; by default the first of `ENDS` that it has.

    Raises:
        InputError: No such file or id, no network, not a tokenizer, or no token to end a document.
    """
    path = _find(name)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        Tokenizer.from_str(json.dumps(state))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # `tokenizers` raises plain Exception
        raise InputError(f"{path} is not a tokenizer in the format of tokenizers: {error}") from error
    end = _end_of_text(state, name, end_of_text)
    _trade_ids(state, end)
    state |= {"post_processor": None, "truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.encode_special_tokens = True
    if END_OF_TEXT_ID in tokenizer.encode(f"a {end}b{end}", add_special_tokens=False).ids:
        raise InputError(
            f"tokenizer {name} reads {end} in a text as the end of it: name another --end_of_text"
        )
    return tokenizer


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        path /= _FILE
        if not path.is_file():
            raise InputError(f"tokenizer {name} holds no {_FILE}")
    if path.is_file():
        return path
    if path.suffix == ".json" or path.is_absolute() or name.count("/") > 1 or name.startswith("."):
        raise InputError(f"tokenizer {name} does not exist")
    from huggingface_hub import hf_hub_download  # slow to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(name, _FILE))
    except HFValidationError as error:
        raise InputError(f"tokenizer {name} is neither a file nor a Hugging Face id") from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"tokenizer {name} is no local file and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}): without network give the path of its {_FILE}"
        ) from error


def _end_of_text(state: dict[str, Any], name: str, wanted: str | None) -> str:
    vocabulary = state["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    special = [token["content"] for token in state.get("added_tokens") or [] if token["special"]]
    known = {*pieces, *special}
    for end in ENDS if wanted is None else (wanted,):
        if end in known:
            return end
    fault = "has none of " + ", ".join(ENDS) if wanted is None else f"has no token {wanted}"
    raise InputError(
        f"tokenizer {name} {fault} to end a document: name one by --end_of_text, "
        f"such as {', '.join(special[:5]) or 'a token of its vocabulary'}"
    )


def _trade_ids(state: dict[str, Any], end: str) -> None:
    """Give `end` id 0 and what had id 0 the id that `end` had."""
    model, added = state["model"], state.get("added_tokens") or []
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        ids = vocabulary | {token["content"]: token["id"] for token in added}
        old = ids[end]
        for token, token_id in ids.items():
            if token_id == END_OF_TEXT_ID:
                vocabulary[token] = old
        vocabulary[end] = END_OF_TEXT_ID
    else:
        unlikely = _UNLIKELY * min(score for _, score in vocabulary)
        for token in sorted(added, key=lambda token: token["id"]):
            if token["id"] == len(vocabulary):
                vocabulary.append([token["content"], unlikely])
        old = next(i for i, (piece, _) in enumerate(vocabulary) if piece == end)
        vocabulary[old] = vocabulary[0]
        vocabulary[0] = [end, unlikely]
        trade = {0: old, old: 0}
        if model.get("unk_id") is not None:
            model["unk_id"] = trade.get(model["unk_id"], model["unk_id"])
    for token in added:
        token["id"] = {END_OF_TEXT_ID: old, old: END_OF_TEXT_ID}.get(token["id"], token["id"])
