"""`rankbound diagnose` on a random checkpoint of Pythia-160m's shape, as a user runs it.

    rankbound prepare --vocab_size 2048
    python bench/diagnose.py                     # needs transformers; about 15 minutes on two cores

Two runs of the command, each a process of its own: everything but the probe, and the probe with a budget.
The weights are random, so what is found says nothing; the sizes, and with them the work, are the model's.
The text is read with the corpus's small tokenizer, whose ids the model has.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine, table, verdict

SECONDS, GIB, SPECTRUM_SECONDS = 300, 6, 5


def main() -> None:
    options = arguments()
    print(f"{machine()}; {options.threads} threads; {options.tokens:,} tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "model")
        subprocess.run([sys.executable, __file__, "--save", str(checkpoint)], check=True)
        shutil.copy(options.corpus / "tokenizer.json", checkpoint)
        plain = diagnosed(options, checkpoint, ["--probe", "false"])
        probed = diagnosed(options, checkpoint, ["--minutes", str(options.minutes)])
    stages = [(stage, f"{took:.1f} s") for stage, took in plain["seconds"].items()]
    print(table(("stage", "time"), [*stages, ("whole process", f"{plain['wall']:.1f} s")]))
    print(verdict("everything but the probe, s", plain["wall"], SECONDS, at_most=True))
    print(verdict("peak memory, GiB", plain["peak"] / 2**30, GIB, at_most=True))
    spectrum = plain["seconds"]["HeadSpectrum"]
    print(verdict("the head's spectrum, s", spectrum, SPECTRUM_SECONDS, at_most=True))
    probe = probed["headroom"]
    print(
        f"probe: {60 * options.minutes:.0f} s allowed, {probe['planned_seconds']:.0f} s announced, "
        f"{probe['seconds']:.0f} s taken, {probe['epochs']:.1f} epochs; peak memory "
        f"{probed['peak'] / 2**30:.1f} GiB"
    )
    print(
        verdict("the probe's time / its budget", probe["seconds"] / (60 * options.minutes), 1, at_most=True)
    )


def diagnosed(options: argparse.Namespace, checkpoint: Path, extra: list[str]) -> dict[str, Any]:
    """The report's numbers, with `wall` seconds and `peak` bytes of the process."""
    output = checkpoint.with_name("report.html")
    command = [sys.executable, "-m", "rankbound.cli", "diagnose", str(checkpoint), "--corpus", "sotu"]
    command += ["--tokens", str(options.tokens), "--output", str(output), *extra]
    begun = time.monotonic()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=os.environ | _threads(options.threads)
    )
    found: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the largest child so far
    return found | {"wall": time.monotonic() - begun, "peak": peak}


def save(folder: Path) -> None:
    """A GPT-NeoX of Pythia-160m's sizes with random weights."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=2048,
        rotary_pct=0.25,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the probe")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-2048"), help="whose tokenizer")
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if folder := arguments().save:
        save(folder)
    else:
        main()
