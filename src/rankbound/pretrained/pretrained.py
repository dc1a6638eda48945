"""A trained model with what it takes to use it, wherever it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rankbound.corpora.tokenizer import vocabulary_size
from rankbound.errors import InputError
from rankbound.runs import Run
from rankbound.training.language_model import LanguageModel

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Pretrained:
    """A model, in evaluation mode on the CPU, and its tokenizer.

    - `tokenizer`: text to the model's ids; None where there is none, as for a language that is no text
    - `name`: for tables and messages
    - `context`: tokens that the model was trained to read at once
    - `end_of_text`: the id that documents begin after: a beginning of text for a model that has one
    - `stops`: ids that end a text it writes
    - `settings`: of the model, as a run's config has them; None for a model from elsewhere
    - `run`: the run it is of, if it is of one, and `step` where that is not its last
    """

    model: LanguageModel
    tokenizer: Tokenizer | None
    name: str
    context: int
    end_of_text: int | None
    stops: tuple[int, ...] = ()
    settings: Mapping[str, Any] | None = None
    run: Run | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        size = self.model.body.embedding.num_embeddings
        needed = 0 if self.tokenizer is None else vocabulary_size(self.tokenizer)
        if needed > size:
            raise InputError(
                f"{self.name}: the tokenizer has ids up to {needed - 1}, the model an embedding of {size}: "
                "they are not of one model"
            )


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """A folder's tokenizer, which takes every text as ordinary text; None where there is none."""
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as failure:  # `tokenizers` raises plain Exception
        raise InputError(f"{path} is not a tokenizer in the format of tokenizers: {failure}") from failure
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def begins(config: Mapping[str, Any]) -> int | None:
    """The id that documents begin after: `bos_token_id`, or the end of the last one."""
    known = [*ids(config.get("bos_token_id")), *ids(config.get("eos_token_id"))]
    inside = [token for token in known if token < config["vocab_size"]]
    return inside[0] if inside else None


def ids(value: Any) -> tuple[int, ...]:
    """One id, several or none."""
    found = tuple(value) if isinstance(value, list) else () if value is None else (value,)
    if not all(isinstance(token, int) for token in found):
        raise InputError(f"the ids that begin or end its texts are {value!r}; they must be whole numbers")
    return found
