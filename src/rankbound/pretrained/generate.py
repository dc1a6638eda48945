"""`rankbound generate`: text on the terminal as it is made."""

from __future__ import annotations

import sys

import torch

from rankbound.errors import InputError
from rankbound.pretrained.devices import Device
from rankbound.pretrained.generating import Continuation, Contrast, NextToken, continued
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.sampling import Sampling, check_weights
from rankbound.pretrained.texts import Stream, TextModel


def generate(
    model: str,
    prompt: str = "",
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    seed: int = 0,
    revision: str | None = None,
    other: str | None = None,
    other_revision: str | None = None,
    weight: float = 1.0,
    other_weight: float = -1.0,
    device: Device = "auto",
) -> None:
    """Continue a prompt, shown token by token until the model ends the text.

    With a second model, tokens are drawn from weight x p + other_weight x q, what is negative dropped and
    the rest normalised: 1 and -1 show what the first model has and the second has not. A text longer than
    the model reads loses the older half of what it reads.

    Args:
        model: A run folder, an exported or transformers folder, a llama2.c file, or a Hugging Face id.
        prompt: Text to continue; without it a text begins as documents did in training.
        max_tokens: Stop after so many.
        temperature: Below 1 favours likely tokens, above 1 unlikely ones.
        top_k: Draw from the k likeliest tokens only.
        top_p: Draw from the fewest likeliest tokens that together have this probability.
        greedy: Always take the likeliest token.
        seed: Of the draws.
        revision: Of a Hugging Face id: branch, tag or commit.
        other: A second model with the same tokenizer.
        other_revision: Its revision.
        weight: Of the first model's probabilities, from -1 to 1.
        other_weight: Of the second model's, from -1 to 1.
        device: Where to compute; auto takes a GPU where there is one.
    """
    sampling = Sampling(temperature, top_k, top_p, greedy)
    _check(seed, other, other_revision, weight, other_weight)
    first = _open(model, revision, device)
    next_token: NextToken = Continuation(first.model, first.context)
    if other is not None:
        second = _open(other, other_revision, device)
        _check_same_tokens(model, first, other, second)
        next_token = Contrast(next_token, Continuation(second.model, second.context), weight, other_weight)
    prompt_ids = first.encode([prompt])[0]
    place = first.model.body.embedding.weight.device
    generator = torch.Generator(place).manual_seed(seed)
    stream = Stream(first, prompt_ids)
    _show(prompt)
    ids = [*first.start, *prompt_ids]
    for token in continued(ids, next_token, sampling, max_tokens, first.stops, generator):
        _show(stream.add(token))
    _show(stream.rest() + "\n")


def _check(
    seed: int, other: str | None, other_revision: str | None, weight: float, other_weight: float
) -> None:
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must be at least 0 and below 2^63")
    check_weights(weight, other_weight)
    if other is None and (other_revision, weight, other_weight) != (None, 1.0, -1.0):
        raise InputError("other_revision, weight and other_weight need a second model: name one by --other")


def _open(source: str, revision: str | None, device: Device) -> TextModel:
    return TextModel.of(load_pretrained(source, revision), device)


def _check_same_tokens(name: str, first: TextModel, other: str, second: TextModel) -> None:
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise InputError(
            f"{name} and {other} have different tokenizers: their probabilities are not of the same tokens"
        )


def _show(text: str) -> None:
    """To the terminal at once; a character that it cannot show as a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()
