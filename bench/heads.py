"""Every head's loss, forward and backward: against the linear head, the naive formula, and others' code.

    python bench/heads.py                 # two CPU threads, about 15 minutes
    python bench/heads.py --device cuda --precision bf16 --rows 16384 --hidden-size 1024 --vocab-size 50304

- ours: `ChunkedLoss`, compiled in bfloat16 and on a GPU; a head that cannot be compiled stays eager
- naive: every log-probability of every row at once (of each component for a mixture), float32, eager
- linear_cross_entropy: PyTorch's, in its own chunks; cross_entropy: logits, then PyTorch's, compiled
- x-transformers: a model of one layer with its mixture of softmaxes less the same without it, in an
  environment made on first use; ours likewise

The first round measures everything, every further one what a bar is set for. A time is the median over
rounds of each process's fastest repetition, a ratio the median of the rounds' ratios. How memory is
counted: peers/cost.py. Errors are relative, against the naive formula in float64; the gradient's is that
of the worst matrix. Every process keeps freed memory, as `rankbound fit` does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from measure import machine, megabytes, peer, table, turn, verdict
from peers import environment
from peers.entries import LINEAR_WAYS, MODEL_COMPONENTS, Entry, Model, Results, contestants, models
from quiet import Quiet

MIXTURE = "MixtureOfSoftmaxes"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}  # glibc's
LEAST = {"seconds": 1e-3, "peak_bytes": 2**20}  # what a mixture adds is taken for no less
COSTS = {"seconds": "time", "peak_bytes": "memory"}
HEADER = ("time", "/ {}", "naive / this", "memory", "/ {}", "naive / this", "loss error", "gradient error")


def main() -> None:
    options = arguments()
    os.environ.update(ALLOCATOR)
    print(f"{machine()}; {options.threads} threads, {options.device}")
    print(
        f"{options.rows:,} rows, width {options.hidden_size:,}, vocabulary {options.vocab_size:,}, "
        f"compile {options.compile}",
        flush=True,
    )
    names = peer(sys.executable, "head_names.py", {}, options.threads)["names"]
    entries: list[Entry | Model] = list(contestants(options, names))
    if not options.heads or MIXTURE in options.heads:
        entries += models(options, environment.python("x-transformers"))
    quiet, results = Quiet(options.patience), Results()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            taking_part = [entry for entry in entries if entry.judged or number == 0]
            print(f"round {number + 1}: {len(taking_part)} runs", file=sys.stderr, flush=True)
            for entry in turn(number, taking_part):
                results.add(entry, quiet.run(lambda entry=entry: entry.run(options, Path(folder))))
    for precision in options.precision:
        report_heads(results, precision)
        report_linear(results, precision)
    report_naive(results)
    report_models(results)
    print(f"{machine()}; {quiet}")


def report_heads(results: Results, precision: str) -> None:
    """Every head's table, and whether mixtures keep to the cost of their matrix products."""
    ours = [e for e in results.of(Entry) if e.way == "ours" and e.precision == precision]
    rows = [(str(entry), *cells(results, entry, entry.linear())) for entry in ours]
    print(f"\n{precision}\n{table(header('ours', 'Linear'), rows)}")
    for entry in ours:
        if entry.head == MIXTURE:
            components = dict(entry.settings)["components"]
            time, memory = (results.ratio(entry, entry.linear(), name) for name in COSTS)
            what = f"{entry}, {precision}"
            print(verdict(f"{what}, time / {components} x Linear's", time / components, 1.4, at_most=True))
            print(verdict(f"{what}, memory / Linear's", memory, 1.5, at_most=True))


def report_linear(results: Results, precision: str) -> None:
    """The linear head by every way, and whether ours keeps up with the faster of PyTorch's."""
    ours, *others = (Entry("Linear", way, precision) for way in LINEAR_WAYS)
    rows = [(entry.way, *cells(results, entry, ours)) for entry in (ours, *others)]
    print(f"\nLinear, {precision}\n{table(header('way', 'ours'), rows)}")
    best = min(others, key=lambda entry: results.middle(entry, "seconds"))
    for (name, cost), bar in zip(COSTS.items(), (1.1, 1.0), strict=True):
        found = results.ratio(ours, best, name)
        print(verdict(f"Linear, {precision}, {cost} / {best.way}'s", found, bar, at_most=True))


def report_naive(results: Results) -> None:
    """Whether the mixture at its default, in its faster precision, is far from the naive formula."""
    settings = (("components", MODEL_COMPONENTS),)
    ours = [e for e in results.of(Entry) if (e.head, e.settings, e.way) == (MIXTURE, settings, "ours")]
    if ours and ours[0].naive() in results.runs:
        best = min(ours, key=lambda entry: results.middle(entry, "seconds"))
        print()
        for (name, cost), bar in zip(COSTS.items(), (4, 12), strict=True):
            found = results.ratio(best.naive(), best, name)
            print(verdict(f"{best}, {best.precision}, naive / ours in {cost}", found, bar))


def report_models(results: Results) -> None:
    """What the mixture adds to a whole model, and whether ours adds far less than x-transformers'."""
    mixtures = [model for model in results.of(Model) if model.components]
    if not mixtures:
        return
    rows, verdicts = [], []
    for ours, theirs in zip(mixtures[::2], mixtures[1::2], strict=True):
        setting = f"{'compiled' if ours.compiled else 'eager'} {ours.precision}"
        for model in (ours, theirs):
            seconds, memory = (results.added(model, name) for name in COSTS)
            rows.append((model.who, setting, milliseconds(seconds), megabytes(memory)))
        for (name, cost), bar in zip(COSTS.items(), (4, 10), strict=True):
            found = results.added(theirs, name) / max(results.added(ours, name), LEAST[name])
            verdicts.append(verdict(f"mixture, {setting}, x-transformers / ours in {cost}", found, bar))
    quickest = min(mixtures[::2], key=lambda model: results.added(model, "seconds"))
    for (name, cost), bar in zip(COSTS.items(), (4, 10), strict=True):
        found = results.added(mixtures[1], name) / max(results.added(quickest, name), LEAST[name])
        what = f"mixture, ours at its fastest, x-transformers as it comes (eager fp32), ratio in {cost}"
        verdicts.append(verdict(what, found, bar))
    print(f"\nadded by a mixture of {MODEL_COMPONENTS}")
    print(table(("", "setting", "time", "memory"), rows), *verdicts, sep="\n")


def header(first: str, against: str) -> tuple[str, ...]:
    return (first, *(name.format(against) for name in HEADER))


def cells(results: Results, entry: Entry, against: Entry) -> list[str]:
    """One row: each cost, by that of `against`, and the naive formula's by it; errors."""
    found = []
    for name, shown in (("seconds", milliseconds), ("peak_bytes", megabytes)):
        found += [shown(results.middle(entry, name)), f"{results.ratio(entry, against, name):.2f}"]
        naive = entry.naive()
        found.append(f"{results.ratio(naive, entry, name):.1f}" if naive in results.runs else "")
    return found + [f"{results.middle(entry, name):.0e}" for name in ("loss_error", "gradient_error")]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--compile", choices=("auto", "always", "never"), default="auto", help="of `ours`")
    parser.add_argument("--heads", nargs="+", help="names; all if not given, Linear in any case")
    parser.add_argument("--seconds", type=float, default=1.0, help="of repetitions in each process")
    for name, default in (
        ("threads", 2),
        ("rounds", 2),
        ("rows", 4096),
        ("hidden-size", 128),
        ("vocab-size", 8192),
        ("patience", 0),  # seconds in all to wait for a quiet machine
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
