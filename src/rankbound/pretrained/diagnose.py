"""`rankbound diagnose MODEL`: is it rank-bound, and what would a better head give?

Design decisions:
- One pass over the text makes the loss and the states that everything else reads; the recorder's
  measurements look at a spread-out sample of its windows.
- What one measurement cannot do is a note in the report and stops nothing else.
- The probe comes last, in a time that the user sets and that is announced before it starts.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean, three_parts
from rankbound.analysis.diagnosis import Diagnosis
from rankbound.analysis.headroom import Headroom, Search, headroom
from rankbound.analysis.hidden_cache import States, bytes_needed, hidden_states
from rankbound.analysis.rank_cuts import RankCuts, rank_cuts
from rankbound.corpora.sources import Reading
from rankbound.errors import InputError
from rankbound.pretrained.subject import Subject, load_subject
from rankbound.pretrained.text_windows import Text, windows_of
from rankbound.training.measurements import Measurement
from rankbound.training.measurements.gradient import Retention
from rankbound.training.measurements.head import HeadSpectrum
from rankbound.training.measurements.log_prob import LogProbSpectrum
from rankbound.training.measurements.states import StateGeometry
from rankbound.training.measurements.unargmaxable import Unargmaxable
from rankbound.training.observed import Observed

#: Tokens of the sample that the recorder's measurements look at, and of one forward pass.
SAMPLE, BATCH = 8192, 4096


def diagnose(
    model: str,
    corpus: str | None = None,
    revision: str | None = None,
    *,
    text_field: str = "text",
    document_separator: str | None = None,
    tokens: int = 50_000,
    window: int | None = None,
    probe: bool = True,
    minutes: float = 10.0,
    epochs: float = 40.0,
    argmax_seconds: float = 30.0,
    disk_gib: float = 4.0,
    seed: int = 0,
    output: Path = Path("checkpoints/diagnosis.html"),
) -> tuple[Diagnosis, Path]:
    """Measure a model's head, states and log-probabilities on a text, and probe for a better head.

    Args:
        model: A run's folder or checkpoint, a folder of transformers, a llama2.c binary, or a hub id.
        corpus: A prepared corpus or a text to measure on; of a run, its own valid split if not given.
        revision: On the hub: branch, tag or commit; of a run, a step that it kept.
        text_field: Of the text's rows, where it has fields.
        document_separator: Cut the text's documents where this stands, such as <|endoftext|>.
        tokens: Measure on about so many.
        window: Tokens that the model reads at once; its context, 1,024 at most, if not given.
        probe: Search for headroom; without, everything else is measured.
        minutes: Time that the search may take.
        epochs: Of the search, at most, where time allows.
        argmax_seconds: Time for tokens whose chance of being predicted is hard to settle.
        disk_gib: Disk for hidden states, in GiB; what does not fit is computed again when it is needed.
        seed: Of samples, parts and the search.
        output: The report; its numbers go beside it as .json.

    Raises:
        InputError: No such model or text, one that does not fit the other, a setting out of range.
    """
    if output.suffix != ".html":
        raise InputError(f"output {output} is no .html file: name one")
    if disk_gib < 0 or argmax_seconds < 0:
        raise InputError("disk_gib and argmax_seconds must be at least 0")
    search = Search(minutes=minutes, epochs=epochs, seed=seed)
    reading = Reading(text_field=text_field, document_separator=document_separator)
    stages = Stages()
    with stages("loading the model"):
        subject = load_subject(model, revision)
        text = windows_of(subject, corpus, tokens, window, reading)
    found = examine(subject, text, stages, argmax_seconds, disk_gib, search if probe else None, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    found.write(output.with_suffix(".json"))
    return found, output


def examine(
    subject: Subject,
    text: Text,
    stages: Stages,
    argmax_seconds: float = 30.0,
    disk_gib: float = 4.0,
    search: Search | None = None,
    seed: int = 0,
) -> Diagnosis:
    """The diagnosis of a model that is loaded, on a text that is cut; without `search`, no probe."""
    with stages("reading the text") as progress:
        states, nats = read_states(subject, text, disk_gib, progress)
    own = text.document
    sample = sample_of(text)
    notes = [note for note in (subject.note, text.note, _disk_note(states, disk_gib)) if note]
    if text.size < 1000:
        notes.append(f"{text.size:,} tokens are few: intervals are wide.")
    measured = measurements(argmax_seconds, seed)
    seen = subject.observe(text.tokens[sample], text.targets[sample])
    figures, spectra, failed = observe(seen, measured, stages)
    del seen  # every layer's states
    cuts, gain = None, None
    if subject.readout is not None:
        cuts = _cuts(subject, states, text, stages, seed)
        if search is not None:
            gain = _headroom(subject, states, text, search, stages)
    return Diagnosis(
        name=subject.name,
        head=subject.head,
        text=text.name,
        vocab_size=subject.vocab_size,
        hidden_size=subject.width,
        tokens=text.size,
        loss=cluster_mean(nats, own),
        figures=figures,
        spectrum=tuple(float(value) for value in next(iter(spectra.values()), [])),
        cuts=cuts,
        headroom=gain,
        notes=(*notes, *failed),
        seconds=stages.seconds,
        command=shlex.join(["rankbound", *sys.argv[1:]]),
    )


@dataclass
class Stages:
    """The stages of a diagnosis: what each took, and a bar with the time left on a terminal."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        begun = time.monotonic()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        ) as bar:
            task = bar.add_task(name, total=1.0)
            yield lambda share: bar.update(task, completed=share)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    @staticmethod
    def say(line: str) -> None:
        """A line that stays."""
        print(line, file=sys.stderr, flush=True)


def read_states(
    subject: Subject, text: Text, disk_gib: float, progress: Callable[[float], None]
) -> tuple[States, Tensor]:
    """The head's inputs of all tokens, and the nats of each, (N,)."""
    count, length = text.tokens.shape
    batch = max(1, BATCH // length)
    nats = torch.empty(count, length)
    measured = torch.zeros(count, dtype=torch.bool)

    def forward(windows: Tensor) -> Tensor:
        hidden = subject.hidden(text.tokens[windows]).flatten(0, 1)
        if not measured[windows].all():
            found = subject.nll(hidden, text.targets[windows].flatten())
            nats[windows] = found.view(len(windows), length).float()
            measured[windows] = True
        return hidden

    budget = int(disk_gib * 2**30)
    states = hidden_states(
        forward, count, length, subject.width, disk_budget=budget, batch=batch, progress=progress
    )
    for start in range(0, count, batch):  # of states that are not kept
        windows = torch.arange(start, min(start + batch, count))
        if not measured[windows].all():
            forward(windows)
            progress(min(start + batch, count) / count)
    if not torch.isfinite(nats).all():
        raise InputError(f"{subject.name} gives losses that are not finite: are its weights damaged?")
    return states, nats.flatten()


def sample_of(text: Text, size: int = SAMPLE) -> Tensor:
    """Windows (b,) spread over the text, `size` tokens in all."""
    count, length = text.tokens.shape
    wanted = min(count, max(1, size // length))
    spread: Tensor = torch.linspace(0, count - 1, wanted).round().long()
    return spread[torch.cat([torch.ones(1, dtype=torch.bool), spread.diff() > 0])]


def measurements(argmax_seconds: float, seed: int) -> tuple[Measurement, ...]:
    """The recorder's that a diagnosis makes."""
    return (
        HeadSpectrum(),
        StateGeometry(),
        LogProbSpectrum(seed=seed),
        Retention(seed=seed),
        Unargmaxable(argmax_seconds),
    )


def observe(
    seen: Observed, measured: tuple[Measurement, ...], stages: Stages
) -> tuple[dict[str, float], dict[str, Tensor], list[str]]:
    """Figures and spectra by name, and what could not be measured."""
    figures: dict[str, float] = {}
    spectra: dict[str, Tensor] = {}
    failed = []
    for measurement in measured:
        name = type(measurement).__name__
        with stages(name):
            try:
                reading = measurement(seen)
            except InputError as unfit:
                failed.append(f"Not measured, {name}: {unfit}.")
                continue
        figures |= {key: float(value) for key, value in reading.values.items()}
        spectra |= reading.spectra
    return figures, spectra, failed


def _cuts(subject: Subject, states: States, text: Text, stages: Stages, seed: int) -> RankCuts | None:
    assert subject.readout is not None
    fit, choose, report, _ = three_parts(text.document, seed=seed)
    rows = torch.cat([choose, report]).sort().values
    if not len(fit) or not len(rows):
        return None
    with stages("rank cuts") as progress:
        return rank_cuts(
            states,
            subject.readout,
            text.targets.flatten(),
            text.document,
            fit,
            rows,
            units=text.units,
            progress=progress,
        )


def _headroom(subject: Subject, states: States, text: Text, search: Search, stages: Stages) -> Headroom:
    assert subject.readout is not None
    with stages("head probe") as progress:
        return headroom(
            states,
            subject.readout,
            text.targets.flatten(),
            text.document,
            search,
            units=text.units,
            say=stages.say,
            progress=progress,
        )


def _disk_note(states: States, disk_gib: float) -> str:
    if states.block == 1:
        return ""
    size = bytes_needed(len(states), states.width) / 2**30
    return (
        f"Hidden states take {size:.1f} GiB, more than the {disk_gib:g} they may: they are computed again."
    )
