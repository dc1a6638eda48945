"""A head's loss, forward and backward: this project's chunked one against the naive formula.

    python bench/losses.py                 # two CPU threads, about 8 minutes
    python bench/losses.py --device cuda --rows 16384 --hidden-size 1024 --vocab-size 50304

- naive: every log-probability of every row at once (of each component for a mixture), float32, eager
- ours: `ChunkedLoss`, eager and compiled, in float32 and under bfloat16 autocast

The time is the median over rounds of each process's fastest repetition. Peak memory is that of the process
less one's that only holds the inputs. Errors are relative, against the naive formula in float64; the
gradient's is that of the worst matrix.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from measure import machine, megabytes, peer, table, turn, verdict
from quiet import Quiet

JUDGED = "MixtureOfSoftmaxes"
BARS = {"faster": 4.0, "smaller": 12.0}
HEADER = ("head", "way", "time", "naive / this", "memory", "naive / this", "loss error", "gradient error")

#: (way, compiled, precision)
Setting = tuple[str, bool, str]
NAIVE: Setting = ("naive", False, "fp32")
SETTINGS: list[Setting] = [NAIVE, *itertools.product(["ours"], [False, True], ["fp32", "bf16"])]

Results = dict[Setting, list[dict[str, float]]]


def main() -> None:
    options = arguments()
    print(f"{machine()}; {options.threads} threads, {options.device}")
    print(
        f"{options.rows:,} rows, width {options.hidden_size:,}, vocabulary {options.vocab_size:,}",
        flush=True,
    )
    heads = {
        JUDGED: {"components": options.components},
        "Linear": {},
        "Factorized": {"rank": options.rank},
    }
    quiet = Quiet(options.patience)
    results = {head: measure(options, quiet, head, settings) for head, settings in heads.items()}
    print(table(HEADER, [row for head, found in results.items() for row in lines(head, found)]))
    judge(results[JUDGED])
    print(f"{machine()}; {quiet}")


def measure(options: argparse.Namespace, quiet: Quiet, head: str, head_settings: dict[str, int]) -> Results:
    """Every setting once a round, its peak memory less the baseline's."""
    results: Results = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:

        def run(way: str, compiled: bool, precision: str) -> dict[str, Any]:
            task = {
                "head": head,
                "settings": head_settings,
                "way": way,
                "compiled": compiled,
                "precision": precision,
                "device": options.device,
                "rows": options.rows,
                "hidden_size": options.hidden_size,
                "vocab_size": options.vocab_size,
                "repetitions": options.repetitions,
                "reference": str(Path(folder) / "reference.pt"),
            }
            return peer(sys.executable, "softmaxes.py", task, options.threads)

        run("reference", False, "fp32")
        base = {compiled: run("inputs", compiled, "fp32")["peak_bytes"] for compiled in (False, True)}
        for number in range(options.rounds):
            for setting in turn(number, SETTINGS):
                found = quiet.run(lambda setting=setting: run(*setting))
                results[setting].append(found | {"peak_bytes": found["peak_bytes"] - base[setting[1]]})
    return results


def middle(runs: list[dict[str, float]], name: str) -> float:
    return median(run[name] for run in runs)


def ratio(results: Results, setting: Setting, name: str) -> float:
    """Naive by this, the median of the rounds' ratios."""
    pairs = zip(results[NAIVE], results[setting], strict=True)
    return median(naive[name] / this[name] for naive, this in pairs)


def lines(head: str, results: Results) -> list[tuple[str, ...]]:
    return [
        (
            head,
            f"{way}, {'compiled' if compiled else 'eager'} {precision}",
            f"{middle(runs, 'seconds') * 1e3:,.0f} ms",
            f"{ratio(results, (way, compiled, precision), 'seconds'):.1f}",
            megabytes(middle(runs, "peak_bytes")),
            f"{ratio(results, (way, compiled, precision), 'peak_bytes'):.1f}",
            f"{middle(runs, 'loss_error'):.0e}",
            f"{middle(runs, 'gradient_error'):.0e}",
        )
        for (way, compiled, precision), runs in sorted(
            results.items(), key=lambda item: SETTINGS.index(item[0])
        )
    ]


def judge(results: Results) -> None:
    """Whether the fastest of ours clears the bars."""
    best = min((s for s in results if s != NAIVE), key=lambda s: middle(results[s], "seconds"))
    what = f"{JUDGED}, {'compiled' if best[1] else 'eager'} {best[2]}, naive / ours in"
    print(verdict(f"{what} time", ratio(results, best, "seconds"), BARS["faster"]))
    print(verdict(f"{what} memory", ratio(results, best, "peak_bytes"), BARS["smaller"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for name, default in (
        ("threads", 2),
        ("rounds", 3),
        ("repetitions", 4),
        ("rows", 4096),
        ("hidden-size", 128),
        ("vocab-size", 8192),
        ("components", 4),
        ("rank", 16),
        ("patience", 0),  # seconds in all to wait for a quiet machine
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
