"""Models in the binary format of llama2.c, and their tokenizers.

    header      7 int32: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
    float32     embedding, then each kind of matrix over all layers, final norm, two tables of rotary
                positions that are not needed, and the head unless it is the embedding

That is the first version, which marks a head of its own by a negative vocab_size. The second has a magic
word and 256 bytes of header, and the norms come first. Rotary pairs are neighbours there, half a head apart
here: rows of queries and keys are put in our order. The tokenizer is a file beside, `tok512.bin` for 512
tokens or `tokenizer.bin`: scores and pieces of byte pairs merged in the order of their scores.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from torch import Tensor

from rankbound.errors import InputError
from rankbound.model.attention import Attention
from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import (
    Slot,
    Slots,
    blocks,
    fill,
    layer,
    linear_head,
    separate_projections,
)
from rankbound.pretrained.pretrained import Pretrained
from rankbound.training.language_model import LanguageModel

_HEADER = struct.Struct("<7i")
_MAGIC, _LONG_HEADER = b"24ka", 256
_UNKNOWN, _BEGIN, _END = 0, 1, 2
_SPECIAL = ("<unk>", "<s>", "</s>")


def looks_like(path: Path) -> bool:
    """Whether a file begins with either header."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    if start[:4] == _MAGIC:
        return True
    if len(start) < _HEADER.size:
        return False
    dim, hidden, layers, heads, shared, _, length = _HEADER.unpack(start)
    small = all(0 < number < 2**20 for number in (dim, hidden, layers, heads, shared, length))
    return small and dim % heads == 0 and heads % shared == 0


def load(path: Path) -> Pretrained:
    """Read a model, and its tokenizer where there is one beside it.

    Raises:
        InputError: cut short, quantised, or a tokenizer of another size.
    """
    architecture, start, long = _header(path)
    model = architecture.empty()
    slots = dict(_slots(model, norms_first=long, tables=not long))
    expected = start + 4 * sum(int(np.prod(slot.shape)) for slot in slots.values())
    if path.stat().st_size != expected:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes, its header makes {expected}: it is cut short, or no "
            "llama2.c binary in float32"
        )
    fill(slots, _tensors(path, start, slots), prefix="", tied=False)
    size = model.body.embedding.num_embeddings
    found = next((p for n in (f"tok{size}.bin", "tokenizer.bin") if (p := path.parent / n).is_file()), None)
    tokenizer = read_tokenizer(found, size) if found else None
    return Pretrained(
        model, tokenizer, path.stem, model.body.max_position_embeddings, _BEGIN, (_END, _BEGIN)
    )


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Read a tokenizer of as many pieces as the model has tokens."""
    content = path.read_bytes()
    pieces: list[str] = []
    at = 4
    try:
        while at < len(content):
            _, length = struct.unpack_from("<fi", content, at)
            pieces.append(content[at + 8 : at + 8 + length].decode("utf-8").replace(" ", "▁"))
            at += 8 + length
    except (struct.error, UnicodeDecodeError) as failure:
        raise InputError(f"{path} is cut short or no tokenizer of llama2.c ({failure})") from failure
    if len(pieces) != vocab_size or at != len(content):
        raise InputError(
            f"{path} has {len(pieces)} pieces, the model {vocab_size} tokens: they are not of one"
        )
    vocabulary = {piece: i for i, piece in enumerate([*_SPECIAL, *pieces[len(_SPECIAL) :]])}
    bytes_first = len(_SPECIAL) + 256
    merges = [pair for piece in pieces[bytes_first:] for pair in _splits(piece, vocabulary)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token=_SPECIAL[0], byte_fallback=True, fuse_unk=True
        )
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


def _splits(piece: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of pieces that make `piece`."""
    cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    return [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]


def _header(path: Path) -> tuple[Architecture, int, bool]:
    """What the header says, where the numbers begin, and whether it is the long one."""
    with path.open("rb") as file:
        start = file.read(_LONG_HEADER)
    long = start[:4] == _MAGIC
    if long and (len(start) < _LONG_HEADER or (version := struct.unpack_from("<i", start, 4)[0]) != 1):
        version = "none" if len(start) < _LONG_HEADER else version
        raise InputError(f"{path} is of llama2.c's version {version}: only 0 and 1, in float32, are read")
    dim, hidden, layers, heads, shared, vocab, length = _HEADER.unpack_from(start, 8 if long else 0)
    body = {
        "vocab_size": abs(vocab),
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "intermediate_size": hidden,
        "max_position_embeddings": length,
        "rotary_pct": 1.0,
        "norm": "rmsnorm",
        "activation": "swiglu",
        "parallel_residual": False,
        "use_bias": False,
    }
    tied = bool(start[8 + _HEADER.size]) if long else vocab > 0
    return Architecture(body, tied=tied), _LONG_HEADER if long else _HEADER.size, long


def _tensors(path: Path, start: int, slots: dict[str, Slot]) -> Iterator[tuple[str, Tensor]]:
    numbers = np.memmap(path, dtype="<f4", mode="r", offset=start)
    at = 0
    for name, slot in slots.items():
        size = int(np.prod(slot.shape))
        yield name, torch.from_numpy(np.array(numbers[at : at + size])).view(slot.shape)
        at += size


def _slots(model: LanguageModel, norms_first: bool, tables: bool) -> Slots:
    """Every tensor in the order of the file."""
    body, layers = model.body, blocks(model)
    embedding = ("embedding", Slot.of(body.embedding.weight))
    attention_norms, other_norms = (
        [(f"{name}.{i}", Slot.of(getattr(block, name).weight)) for i, block in enumerate(layers)]
        for name in ("attention_norm", "feed_forward_norm")
    )
    final_norm = ("norm", next(iter(layer("", body.final_norm)))[1])
    if norms_first:
        yield from [*attention_norms, *other_norms, final_norm, embedding]
        yield from _attention_slots(layers)
        yield from _feed_forward_slots(layers)
    else:
        yield from [embedding, *attention_norms]
        yield from _attention_slots(layers)
        yield from other_norms
        yield from _feed_forward_slots(layers)
        yield final_norm
    if tables:
        for name in ("freq_real", "freq_imag"):
            yield name, Slot.of(torch.empty(body.max_position_embeddings, body.settings["head_dim"] // 2))
    if linear_head(model).weight is not body.embedding.weight:
        yield "output", Slot.of(linear_head(model).weight)


def _attention_slots(layers: list[Any]) -> Slots:
    for letter in ("q", "k", "v"):
        for i, block in enumerate(layers):
            yield f"w{letter}.{i}", _rows(block.attention, letter)
    for i, block in enumerate(layers):
        yield f"wo.{i}", Slot.of(block.attention.out.weight)


def _feed_forward_slots(layers: list[Any]) -> Slots:
    for i, block in enumerate(layers):
        yield f"w1.{i}", Slot.of(block.feed_forward.gate_inner.weight.chunk(2)[0])
    for i, block in enumerate(layers):
        yield f"w2.{i}", Slot.of(block.feed_forward.out.weight)
    for i, block in enumerate(layers):
        yield f"w3.{i}", Slot.of(block.feed_forward.gate_inner.weight.chunk(2)[1])


def _rows(attention: Attention, letter: str) -> Slot:
    """Of queries, keys or values; the pairs of the first two, (half, two) there, are (two, half) here."""
    slot = dict(separate_projections("{}", attention))[f"{letter}.weight"]
    if letter == "v":
        return slot
    by_head = slot.part.view(-1, 2, attention.head_dim // 2, slot.shape[1])
    return Slot(by_head.transpose(1, 2), slot.shape)
