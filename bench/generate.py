"""Greedy generation: with the cache, by recomputation, and by transformers, of one random GPT-NeoX.

    python bench/generate.py                     # needs transformers; 512 tokens, about 3 minutes

The model is made by transformers, saved and loaded, so all three hold the same weights in float32, and they
must write the same tokens. Ways take turns; a ratio is the median of the rounds'.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from measure import machine, table, turn, verdict


def main() -> None:
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is loaded
    import torch

    torch.set_num_threads(options.threads)
    theirs, ours = models(options)
    counts = ours.parameter_counts()
    print(f"{machine()}; {options.threads} threads")
    sizes = f"body {counts['body']:,}, head {counts['head']:,} parameters"
    print(f"{options.tokens} tokens, {sizes}", flush=True)
    prompt = list(range(5, 13))
    ways: dict[str, Callable[[], list[int]]] = {
        "cached": lambda: written(ours, prompt, options.tokens, cached=True),
        "transformers": lambda: transformers_written(theirs, prompt, options.tokens),
        "recomputed": lambda: written(ours, prompt, options.tokens, cached=False),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, list[int]] = {}
    for way in (ways["cached"], ways["transformers"]):
        way()  # warm
    for number in range(options.rounds):
        for name in turn(number, list(ways)):
            start = time.perf_counter()
            tokens[name] = ways[name]()
            times[name].append(time.perf_counter() - start)
    rows = []
    for name, seconds in times.items():
        ratio = median(s / c for s, c in zip(seconds, times["cached"], strict=True))
        rate = f"{options.tokens / median(seconds):.1f}"
        same = "yes" if tokens[name] == tokens["cached"] else "NO"
        rows.append((name, f"{median(seconds):.2f} s", rate, f"{ratio:.2f}", same))
    print(table(("way", "time", "tokens/s", "/ cached", "same tokens"), rows))
    print(verdict("recomputed / cached", float(rows[2][3]), 5))
    print(verdict("transformers / cached", float(rows[1][3]), 1))


def written(model: Any, prompt: list[int], count: int, cached: bool) -> list[int]:
    """Tokens of this package."""
    import torch

    from rankbound.pretrained.generating import Continuation, continued
    from rankbound.pretrained.sampling import Sampling

    next_token = Continuation(model, model.body.max_position_embeddings, cached)
    return list(continued(prompt, next_token, Sampling(greedy=True), count, (), torch.Generator()))


def transformers_written(model: Any, prompt: list[int], count: int) -> list[int]:
    """Tokens of `generate`, which keeps a cache by default."""
    import torch

    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens


def models(options: argparse.Namespace) -> tuple[Any, Any]:
    """One random checkpoint, as transformers loads it and as this package does."""
    import torch
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

    from rankbound.pretrained.load import load_pretrained

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
        initializer_range=0.05,
    )
    with tempfile.TemporaryDirectory() as folder:
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
        return theirs, load_pretrained(folder).model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("threads", 2),
        ("rounds", 3),
        ("tokens", 512),
        ("vocab-size", 50_304),
        ("hidden-size", 256),
        ("layers", 6),
        ("heads", 8),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
