"""What recording costs: its share of a run by measurement, and the spectrum of a large head.

    rankbound prepare --vocab_size 8192
    python bench/recorder.py                  # about fifteen minutes of two cores
    python bench/recorder.py --heads Linear --steps 200

- A run records its own seconds, so the share is measured where it is paid: vocabulary 8,192, width 256,
  four layers, the default list at every 100 steps. Step 0 and the last are recorded as well, so a run of
  300 steps pays for four records where a long one pays for one in 100 steps; the table shows both.
- What is not in the default list is timed in a run that records everything once, and stated in steps: how
  many steps of training cost as much.
- The spectrum is that of a 50,304 x 1,024 matrix whose singular values fall from 1 to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import child, machine, table, verdict
from rankbound import load_run
from rankbound.training.measurements import all_measurements

BODY = {
    "model.hidden_size": 256,
    "model.num_hidden_layers": 4,
    "data.window": 128,
    "data.batch_size": 16,
    "recorder.when.per_doubling": 0,
    "recorder.when.every": 100,
    "train_log.every": 20,
    "evaluate.every": 100_000,
    "checkpoints.every": 100_000,
    "data.valid_windows": 16,
}
SPECTRUM = """
import json, time, torch
from rankbound.metrics import effective_rank, singular_values
torch.manual_seed(0)
rows, columns = 50_304, 1_024
left = torch.linalg.qr(torch.randn(rows, columns)).Q
right = torch.linalg.qr(torch.randn(columns, columns)).Q
matrix = left * torch.logspace(0, -6, columns) @ right.T
found = {}
for method in ("auto", "gram", "qr", "svd"):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        values = singular_values(matrix, method)
        seconds.append(time.perf_counter() - start)
    found[method] = (min(seconds), float(effective_rank(values)))
print(json.dumps(found))
"""


def main() -> None:
    options = arguments()
    print(f"{machine()}; {options.threads} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        for head in options.heads:
            print_shares(head, fit(Path(folder) / head, head, options))
            everything = {"recorder.when.every": 100_000, "recorder.when.start": "false"}
            names = [name for name in options.extra if head == "Linear" or name != "Unargmaxable"]
            more = [f"--recorder.measurements+={name}" for name in names]
            print_extra(head, fit(Path(folder) / f"{head}-all", head, options, everything, more))
    print_spectrum(json.loads(child([sys.executable, "-c", SPECTRUM], options.threads)))


def fit(run_dir: Path, head: str, options: Any, changed: Any = None, more: Any = ()) -> Any:
    """The run, trained in a process of its own."""
    settings = BODY | {
        "data.corpus": options.corpus,
        "model.head": head,
        "model.total_steps": options.steps if not more else 40,
        "run_dir": run_dir,
    }
    told = [f"--{name}={value}" for name, value in (settings | (changed or {})).items()]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "rankbound.cli", "fit", *told, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return load_run(run_dir)


def step_seconds(run: Any) -> float:
    """Seconds of a training step, without what was set aside and the interval that compiles."""
    speed = run.series("tokens_per_second").median()
    return float(run.config["data"]["batch_size"] * run.config["data"]["window"] / speed)


def spent(run: Any) -> dict[str, Any]:
    """Seconds by measurement, summed over the run, as a series over its records."""
    names = run.metrics["name"]
    prefix = "recorder_seconds/"
    return {n.removeprefix(prefix): run.series(n) for n in dict.fromkeys(names) if n.startswith(prefix)}


def print_shares(head: str, run: Any) -> None:
    step, rows, share = step_seconds(run), [], 0.0
    for name, series in spent(run).items():
        first, later = float(series.iloc[0]), series.diff().dropna()
        one = float(later[later > 0].mean())
        own = all_measurements()[name].default_when if name != "probe" else None
        period = int((own.every if own else None) or run.config["recorder"]["when"]["every"])
        share += one / (period * step)
        rows.append([name, f"{first:.3f}", f"{one:.3f}", f"{period}", f"{one / (period * step):.3%}"])
    rows.append(["all", "", "", "", f"{share:.3%}"])
    print(f"{head}: {step:.3f} s a step; recorded share of this run: {run.summary['recorder_share']:.2%}\n")
    print(table(["measurement", "first, s", "later, s", "every", "share"], rows))
    print(verdict(f"share of wall time in %, {head}", 100 * share, 1.0, at_most=True), "\n")


def print_extra(head: str, run: Any) -> None:
    step = step_seconds(run)
    once = {name: float(s.iloc[-1] - (s.iloc[-2] if len(s) > 1 else 0)) for name, s in spent(run).items()}
    rows = [[name, f"{seconds:.3f}", f"{seconds / step:.1f}"] for name, seconds in once.items()]
    print(f"{head}, everything at the end of 40 steps\n")
    print(table(["measurement", "seconds", "steps' worth"], rows), "\n")


def print_spectrum(found: dict[str, tuple[float, float]]) -> None:
    reference = found["svd"][1]
    rows = [[n, f"{s:.2f}", f"{r:.4f}", f"{abs(r / reference - 1):.0e}"] for n, (s, r) in found.items()]
    print("Singular values of a 50,304 x 1,024 matrix in float32, computed in float64\n")
    print(table(["method", "seconds", "effective rank", "against svd"], rows))
    fastest = min(seconds for name, (seconds, _) in found.items() if name != "auto")
    print(verdict("auto against the fastest", found["auto"][0] / fastest, 1.15, at_most=True))


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-8192"))
    parser.add_argument("--heads", nargs="+", default=["Linear", "MixtureOfSoftmaxes"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--extra", nargs="+", default=["WeightRanks", "GradientRanks", "Unargmaxable"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
