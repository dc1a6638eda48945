"""A language to a folder that is used as a corpus: the command `rankbound language`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rankbound.corpora.corpus import CARD
from rankbound.corpora.generated import Generated, card_of, open_corpus, write_card
from rankbound.corpora.languages import Language
from rankbound.corpora.languages.floors import FloorNorm, solve_floor
from rankbound.errors import InputError


def generate(
    language: Language,
    output: Path | None = None,
    valid_tokens: int = 131_072,
    floor_ranks: Sequence[int] = (),
    floor_norm: FloorNorm = "layernorm",
    floor_bias: bool = False,
    floor_cache: Path = Path("data/floors"),
) -> Generated:
    """Write a language's card, and the floors asked for, so that it can be trained on.

    Args:
        language: What generates the text.
        output: Folder to make; data/<language>-<vocabulary> by default.
        valid_tokens: Size of the valid split.
        floor_ranks: Widths of linear heads whose best reachable loss to solve, such as [8,16,32].
        floor_norm: Final norm of the models whose floors are solved.
        floor_bias: Whether their heads have a bias.
        floor_cache: Where solved floors are kept, for any folder of the same language.

    Returns:
        The folder; one of the same language is returned with its floors added to.

    Raises:
        InputError: an output that holds something else, or floors that the language does not have.
    """
    if valid_tokens < 2:
        raise InputError(f"valid_tokens is {valid_tokens}: choose at least 2")
    folder = Path("data", f"{type(language).__name__}-{language.vocab_size}") if output is None else output
    card = card_of(language, valid_tokens)
    occupied = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    made = _same(folder, card.corpus_sha256) if occupied else None
    solved = (solve_floor(language, r, floor_norm, floor_bias, cache=floor_cache) for r in floor_ranks)
    floors = [asdict(floor) for floor in solved]
    if made is None:
        write_card(folder, card)
        made = Generated(folder)
    if floors:
        made.with_floors(floors)
    _announce(made)
    return made


def _same(folder: Path, corpus_sha256: str) -> Generated:
    found = open_corpus(folder) if (folder / CARD).is_file() else None
    if isinstance(found, Generated) and found.sha256 == corpus_sha256:
        return found
    held = "is not a language" if found is None else "holds another corpus"
    raise InputError(f"{folder} exists and {held}: remove it or name another --output")


def _announce(made: Generated) -> None:
    card = made.card
    error = f" ± {card.entropy_error:.4f} (standard error)" if card.entropy_error else ""
    print(f"{made.path}: {card.language}, {card.description}; {card.vocab_size:,} tokens in the vocabulary")
    print(f"  entropy: {card.entropy:.4f}{error} nats a token, unigram entropy {card.unigram_entropy:.4f}")
    for floor in card.floors:
        bias = ", head with a bias" if floor["bias"] else ""
        print(
            f"  floor of linear heads, norm {floor['norm']}{bias}, width {floor['rank']}: "
            f"{floor['excess']:.4f} nats above the entropy, to {floor['tolerance']:.1e}"
        )
