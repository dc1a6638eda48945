"""Scoring minimal pairs in batches against one pair at a time, and how far the scores differ.

    python bench/evaluate.py BLIMP                    # a random model; MODEL and more as options

BLIMP is what `rankbound evaluate --blimp` takes. One pair at a time is a plain loop: both sentences padded
to one batch, the whole model on them, the log-probabilities of the tokens summed; one sentence at a time is
the same without padding. Batches read what sentences begin with in common once, and may read some padding.
The ways take turns; a ratio is the median of the rounds'.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from measure import machine, table, turn, verdict


def main() -> None:
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is loaded
    import torch

    from rankbound.pretrained.minimal_pairs import read_paradigms
    from rankbound.pretrained.scoring import score
    from rankbound.training.memory import keep_freed_memory

    keep_freed_memory()  # as the command does
    torch.set_num_threads(options.threads)
    text_model = model(options)
    paradigms = read_paradigms(options.blimp, options.pairs)
    pairs = [pair for paradigm in paradigms for pair in paradigm.pairs]
    pieces = text_model.documents([sentence for pair in pairs for sentence in pair])
    tokens = sum(len(piece.ids) - piece.scored_from for piece in pieces)
    sizes = ", ".join(f"{k} {v:,}" for k, v in text_model.model.parameter_counts().items())
    print(f"{machine()}; {options.threads} threads\n{options.model or 'random'}: {sizes}")
    print(f"{len(pairs):,} pairs of {len(paradigms)} paradigms, {tokens:,} scored tokens", flush=True)
    ways: dict[str, Callable[[], list[float]]] = {
        "batches": lambda: [s.total for s in score(text_model.model, pieces, text_model.context)],
        "one pair at a time": lambda: loop(text_model.model, pieces, 2),
        "one sentence at a time": lambda: loop(text_model.model, pieces, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[float]] = {}
    for name in ways:
        score(text_model.model, pieces[:64], text_model.context)  # warm
        read: list[int] = []
        count = text_model.model.body.embedding.register_forward_pre_hook(
            lambda _, inputs, read=read: read.append(inputs[0].numel())
        )
        scores[name] = ways[name]()
        count.remove()
        print(f"{name}: {sum(read) / tokens:.2f} tokens read for each that is scored", flush=True)
    for number in range(options.rounds):
        for name in turn(number, list(ways)):
            start = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - start)
    rows = [
        (
            name,
            f"{median(seconds):.2f} s",
            f"{len(pairs) / median(seconds):,.0f}",
            f"{ratio(seconds, times['batches']):.2f}",
        )
        for name, seconds in times.items()
    ]
    print(table(("way", "time", "pairs/s", "/ batches"), rows))
    for name in ("one sentence at a time", "one pair at a time"):
        print(verdict(f"{name} / batches", ratio(times[name], times["batches"]), 5))
    batched, paired = scores["batches"], scores["one pair at a time"]
    apart = max(abs(a - b) for a, b in zip(batched, paired, strict=True))
    print(f"largest difference of a score: {apart:.1e} nats of {-min(batched):.0f}")
    better = [[good > bad for good, bad in zip(s[::2], s[1::2], strict=True)] for s in (batched, paired)]
    print(f"pairs decided otherwise: {sum(a != b for a, b in zip(*better, strict=True))}")


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(s / f for s, f in zip(slow, fast, strict=True))


def loop(language_model: Any, pieces: list[Any], at_once: int) -> list[float]:
    """The plain loop over so many sentences at once."""
    import torch

    totals = []
    with torch.inference_mode():
        for first in range(0, len(pieces), at_once):
            group = pieces[first : first + at_once]
            length = max(len(piece.ids) for piece in group)
            ids = torch.tensor([[*piece.ids, *[0] * (length - len(piece.ids))] for piece in group])
            log_prob = language_model(ids[:, :-1]).gather(2, ids[:, 1:, None]).squeeze(2)
            for row, piece in zip(log_prob, group, strict=True):
                totals.append(float(row[piece.scored_from - 1 : len(piece.ids) - 1].double().sum()))
    return totals


def model(options: argparse.Namespace) -> Any:
    """The model named, or a random one whose tokenizer is made from the sentences themselves."""
    from rankbound.corpora.tokenizer import train_tokenizer
    from rankbound.heads import Linear
    from rankbound.model import GPT
    from rankbound.pretrained.load import load_pretrained
    from rankbound.pretrained.minimal_pairs import read_paradigms
    from rankbound.pretrained.texts import TextModel
    from rankbound.training.language_model import LanguageModel

    if options.model:
        return TextModel.of(load_pretrained(options.model))
    sentences = [s for p in read_paradigms(options.blimp, 200) for pair in p.pairs for s in pair]
    tokenizer = train_tokenizer(sentences, 4096)
    body = GPT(
        options.vocab_size,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
    )
    return TextModel(LanguageModel(body, Linear).eval(), tokenizer, body.max_position_embeddings, 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("blimp")
    parser.add_argument("--model", help="a run or anything that rankbound evaluate takes")
    for name, default in (
        ("threads", 2),
        ("rounds", 3),
        ("pairs", 20),  # of each paradigm
        ("vocab-size", 8192),
        ("hidden-size", 128),
        ("layers", 4),
        ("heads", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
