"""Texts as the tokens that a model scores or continues.

Design decisions:
- A text is a document of its own: it begins after the model's end of text (or beginning of text, for a
  model that is trained with one), as documents do in training, so that its first token is scored too. A
  model without such a token leaves a text's first token unscored.
- The end of text after a text is not scored.
- A continuation is scored from the first token in which the whole differs from its context alone: a token
  that crosses the border counts to the continuation, and nothing is scored with tokens the text does not
  have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from rankbound.errors import InputError
from rankbound.pretrained.devices import Device, on_device
from rankbound.pretrained.pretrained import Pretrained
from rankbound.pretrained.scoring import Piece
from rankbound.training.language_model import LanguageModel


@dataclass(frozen=True)
class TextModel:
    """A model with what turns text into its tokens and back.

    - `context`: tokens that it reads at once
    - `end_of_text`: the token that documents begin after; None for a model that has none
    - `stops`: tokens that end a text it writes
    """

    model: LanguageModel
    tokenizer: Tokenizer
    context: int
    end_of_text: int | None
    stops: tuple[int, ...] = ()

    @staticmethod
    def of(pretrained: Pretrained, device: Device = "cpu") -> TextModel:
        """The model on `device`, ready to use. Raises `InputError` where the model has no tokenizer."""
        if pretrained.tokenizer is None:
            raise InputError(
                f"{pretrained.name} comes without a tokenizer: add its tokenizer.json to the folder"
            )
        model = on_device(pretrained.model, device)
        return TextModel(
            model, pretrained.tokenizer, pretrained.context, pretrained.end_of_text, pretrained.stops
        )

    @property
    def start(self) -> list[int]:
        """What every text begins with."""
        return [] if self.end_of_text is None else [self.end_of_text]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without anything before or after."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens show as what they are named."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def documents(self, texts: Sequence[str]) -> list[Piece]:
        """Each text as a whole."""
        first = max(1, len(self.start))
        return [Piece([*self.start, *ids], first) for ids in self.encode(texts)]

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Piece]:
        """The second text of each pair after the first, which may be empty."""
        wholes = self.encode([context + continuation for context, continuation in pairs])
        contexts = self.encode([context for context, _ in pairs])
        return [self._after(whole, context) for whole, context in zip(wholes, contexts, strict=True)]

    def _after(self, whole: Sequence[int], context: Sequence[int]) -> Piece:
        shared = 0
        while shared < min(len(context), len(whole) - 1) and whole[shared] == context[shared]:
            shared += 1
        return Piece([*self.start, *whole], max(1, len(self.start) + shared))


class Stream:
    """The text of tokens that come one at a time, each character as soon as all its bytes are there.

    Decoding token by token would break characters that span several, and the spaces of tokenizers that
    know a word's place; so the tokens since the last settled one are decoded together.
    """

    #: A character has four bytes at most: what is incomplete after so many more tokens is no character.
    PATIENCE = 4

    def __init__(self, model: TextModel, before: Sequence[int] = ()) -> None:
        """`before`: tokens that the text follows."""
        self._model = model
        self._ids = list(before)[-self.PATIENCE :]
        self._shown = len(self._ids)

    def add(self, token: int) -> str:
        """What the token completes; empty where it ends within a character."""
        self._ids.append(token)
        waiting = len(self._ids) - self._shown
        text = self._new()
        return "" if text.endswith("\ufffd") and waiting < self.PATIENCE else self._settle(text)

    def rest(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        return self._settle(self._new()) if self._shown < len(self._ids) else ""

    def _new(self) -> str:
        return self._model.decode(self._ids)[len(self._model.decode(self._ids[: self._shown])) :]

    def _settle(self, text: str) -> str:
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text
