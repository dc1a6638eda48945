"""Bytes folded onto 63 symbols, for vocabularies smaller than the 256 bytes.

Design decisions:
- 59 bytes are written as themselves: the small letters, the digits, space, line feed and common
  punctuation. Every other byte is an escape, one of four, followed by one of the 59: nothing is lost
  and no byte takes more than two symbols. The first escape is a shift key: shift and "a" are "A".
- An escape stands for no byte and any other symbol for one, wherever it comes: the bytes of a token
  are exact, which two hexadecimal digits a byte would not give.
- Folding is part of the tokenizer's file, as a normalizer that maps characters by a trie (the
  "precompiled" format of sentencepiece); one replacement rule a byte would be twelve times slower.
- An escape that nothing follows, which only a model can write, decodes to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import count

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

ESCAPES = "⇧①②③"
_PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,'\"-!?;:()_/*&<>[]=#"


def byte_characters() -> list[str]:
    """The character that stands for each byte in the byte-level alphabet, by byte."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = count(0x100)
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


_BYTES = byte_characters()
_BASE = [_BYTES[ord(character)] for character in _PLAIN]
SYMBOLS = sorted([*_BASE, *ESCAPES])


def escapes() -> dict[str, str]:
    """Each byte-level character that is not written as itself, with its pair of symbols."""
    shifted = {_BYTES[ord(c.upper())]: ESCAPES[0] + c for c in _PLAIN[:26]}
    slots = (escape + base for escape in ESCAPES for base in _BASE)
    free = (pair for pair in slots if pair not in shifted.values())
    others = (c for c in _BYTES if c not in shifted and c not in _BASE)
    return shifted | dict(zip(others, free, strict=False))


def fold(tokenizer: Tokenizer) -> None:
    """Have `tokenizer` write text in `SYMBOLS`, cut into words much as the byte-level one cuts it."""
    pairs = escapes()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.ByteLevel(), normalizers.Precompiled(_charsmap(pairs))]
    )
    tokenizer.pre_tokenizer = word_splitter()
    unfold = [decoders.Replace(pair, character) for character, pair in pairs.items()]
    lone = decoders.Replace(Regex(f"[{ESCAPES}]"), "")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), *unfold, lone, decoders.ByteLevel()])


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Letters and escaped bytes, digits, and the rest, each with one space before it, or white space."""
    space, line = _BYTES[0x20], _BYTES[0x0A]
    letter = f"(?:[a-z]|[{ESCAPES}].)"
    rest = f"[^a-z0-9{space}{line}{ESCAPES}]"
    words = f"{space}?{letter}+|{space}?[0-9]+|{space}?{rest}+"
    return pre_tokenizers.Split(
        Regex(f"{words}|[{space}{line}]+(?![^{space}{line}])|[{space}{line}]"), behavior="isolated"
    )


def _charsmap(replacements: Mapping[str, str]) -> bytes:
    """Write `replacements` of characters of one or two bytes as a trie in a double array.

    A unit holds its label in bits 0 to 7, whether a value hangs below it in bit 8, and from bit 10
    the number that, xor its own index, gives the index of its children; a child lies at that index
    xor its label, a value at the index itself. Unit 0 is the root, its children lie from 256 on.
    """
    units: dict[int, int] = {0: 256 << 10}
    first_bytes = sorted({key.encode()[0] for key in replacements if len(key.encode()) == 2})
    blocks = {byte: 512 + 256 * i for i, byte in enumerate(first_bytes)}
    for byte, block in blocks.items():
        units[256 + byte] = (256 + byte ^ block) << 10 | byte
    free, strings = 512 + 256 * len(blocks), b""
    for key, replacement in replacements.items():
        *first, last = key.encode()
        leaf = (blocks[first[0]] if first else 256) + last
        units[leaf] = (leaf ^ free) << 10 | 1 << 8 | last
        units[free] = 1 << 31 | len(strings)
        free += 1
        strings += replacement.encode() + b"\0"
    array = struct.pack(f"<{free}I", *(units.get(i, 0) for i in range(free)))
    return struct.pack("<I", len(array)) + array + strings
