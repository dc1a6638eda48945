"""Who takes part in the training-step measurement, at which settings, and one run of each.

A short run of every setting picks those within a tenth of their contestant's best. Only these are measured
in full; the fastest by its median then stands for its contestant.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import ChildError, child, peer
from peers import fit
from quiet import Quiet

VARIANTS = {
    "ours": ("",),
    "transformers": ("sdpa", "eager"),  # its attention
    "litgpt": ("whole loss", "chunked loss"),
}
MODULES = {"hand": "hand", "transformers": "neox", "litgpt": "litgpt_gpt"}
CLOSE = 0.9
OPTIMIZER = {
    "learning_rate": 1e-3,
    "warmup": 20,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip": 1.0,
}


@dataclass(frozen=True)
class Entry:
    """One contestant at one setting."""

    who: str
    variant: str
    compiled: bool
    precision: str

    def setting(self) -> str:
        parts = (self.variant, "compiled" if self.compiled else "eager", self.precision)
        return " ".join(part for part in parts if part)


class Contest:
    """Runs entries on the same batches.

    Args:
        options: the command's.
        folder: for temporary files.
        litgpt: interpreter of litgpt's environment; without one it takes no part.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, litgpt: Path | None) -> None:
        self.options = options
        self.litgpt = litgpt
        corpus = options.corpus or Path(f"data/sotu-{options.vocab_size}")
        if not corpus.exists():
            size, output = f"--vocab_size={options.vocab_size}", f"--output={corpus}"
            child([sys.executable, "-m", "rankbound.cli", "prepare", "--corpus=sotu", size, output], 2)
        self.shared: dict[str, Any] = {
            "device": options.device,
            "corpus": str(corpus),
            "batches": str(folder / "batches.npy"),
            "batch_size": options.batch,
            "steps": options.steps,
            "warmup": OPTIMIZER["warmup"],
            "optimizer": OPTIMIZER,
            "sizes": sizes(options),
        }
        peer(sys.executable, "batches.py", self.shared, options.threads)

    def run(self, entry: Entry, steps: int) -> dict[str, float]:
        """Tokens a second, peak memory in bytes and loss of one run; `ChildError` if it breaks."""
        task = self.shared | {
            "contestant": MODULES.get(entry.who),
            "variant": entry.variant,
            "compiled": entry.compiled,
            "precision": entry.precision,
            "steps": steps,
        }
        if entry.who == "ours":
            result = fit.fit(task, self.options.threads)
        else:
            python = self.litgpt if entry.who == "litgpt" and self.litgpt else sys.executable
            result = peer(python, "loop.py", task, self.options.threads)
        speed = f"{result['tokens_per_second']:9,.0f} tokens/s"
        print(f"  {entry.who:12} {entry.setting():28} {speed}", file=sys.stderr, flush=True)
        return result

    def finalists(self, quiet: Quiet) -> list[Entry]:
        """Entries worth a full measurement; the hand-written loop follows our settings."""
        chosen: list[Entry] = []
        for who, variants in VARIANTS.items():
            if who != "litgpt" or self.litgpt:
                settings = itertools.product(variants, (False, True), ("fp32", "bf16"))
                chosen += self._close([Entry(who, *setting) for setting in settings], quiet)
        return chosen + [replace(entry, who="hand") for entry in chosen if entry.who == "ours"]

    def _close(self, entries: list[Entry], quiet: Quiet) -> list[Entry]:
        rates: dict[Entry, float] = {}
        for entry in entries:
            try:
                found = quiet.run(lambda entry=entry: self.run(entry, self.options.first_steps))
                rates[entry] = found["tokens_per_second"]
            except ChildError as error:
                print(f"{entry.who}, {entry.setting()}, is left out: {error}", flush=True)
        return [entry for entry in rates if rates[entry] >= CLOSE * max(rates.values())]


def sizes(options: argparse.Namespace) -> dict[str, int]:
    """The model's sizes by their names in a configuration, and the window."""
    return {
        "vocab_size": options.vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": options.intermediate_size or 4 * options.hidden_size,
        "window": options.window,
    }


def product_operations(sizes: dict[str, int]) -> int:
    """Operations a token in matrix products, forward and backward; a multiply-add counts two.

    Of attention's scores only the causal half is counted, which is all that is needed.
    """
    width, depth = sizes["hidden_size"], sizes["num_hidden_layers"]
    matrices = depth * (4 * width**2 + 2 * width * sizes["intermediate_size"]) + width * sizes["vocab_size"]
    return 6 * matrices + 6 * depth * width * (sizes["window"] + 1)
