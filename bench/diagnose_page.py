"""docs/results/diagnose.md and its figures: a published small model, and three widths trained here.

    rankbound prepare --vocab_size 1024
    rankbound study run configs/studies/saturation.yaml          # of which the plain heads are diagnosed
    python bench/diagnose_page.py --stories stories260K.bin --stories-text stories.txt

Each model is diagnosed as `rankbound diagnose` does it; the page holds what its report says.
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import machine, table
from rankbound.analysis.diagnosis import NAMED_LOSS, Diagnosis, plus_minus
from rankbound.pretrained.diagnose import diagnose
from rankbound.report import style
from rankbound.report.diagnose import diagnosis_report
from rankbound.report.diagnose_figures import of_diagnosis

PAGE = Path("docs/results/diagnose.md")


@dataclass(frozen=True)
class Task:
    """One command: what the page calls the model, what is diagnosed, and how."""

    title: str
    name: str
    model: str
    settings: dict[str, Any]

    @property
    def command(self) -> str:
        """As a user types it, without the folders of this machine."""
        told = [f"--{key} {shlex.quote(_short(value))}" for key, value in self.settings.items()]
        return " ".join(["rankbound diagnose", _short(self.model), *told])


def tasks(options: argparse.Namespace) -> list[Task]:
    study = options.study
    widths = {width: min(study.glob(f"Linear-d{width}-seed1-*/summary.json")) for width in options.widths}
    stories = {"corpus": str(options.stories_text), "document_separator": "<|endoftext|>"}
    return [
        Task("stories260K", "stories", str(options.stories), stories),
        *(Task(f"width {w}", f"d{w}", str(found.parent), {}) for w, found in widths.items()),
    ]


def write(options: argparse.Namespace) -> None:
    found: list[tuple[Task, Diagnosis]] = []
    for task in tasks(options):
        output = options.output / f"{task.name}.html"
        settings = task.settings | {"minutes": options.minutes, "tokens": options.tokens}
        diagnosis, _ = diagnose(task.model, output=output, **settings)
        diagnosis = replace(diagnosis, command=replace(task, settings=settings).command)
        diagnosis_report(diagnosis, output)
        found.append((task, diagnosis))
    commands = "\n".join(f"    {diagnosis.command}" for _, diagnosis in found)
    parts = [
        "# What diagnosis says of four small models",
        "    python bench/diagnose_page.py --stories stories260K.bin --stories-text stories.txt",
        _filled(OPENING.format(machine=machine(), minutes=options.minutes)),
        commands,
        "## What it says",
        *(_filled(f"**{task.title}.** {diagnosis.verdict()}") for task, diagnosis in found),
        "## What was measured",
        summary_table(found),
        "## The probe",
        _filled(PROBE),
        probe_table(found),
    ]
    for task, diagnosis in found:
        parts += [f"## Figures: {task.title}", *figures(task, diagnosis)]
    PAGE.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    print(PAGE.read_text())


def figures(task: Task, found: Diagnosis) -> list[str]:
    """Written beside the page; the lines that show them."""
    lines = []
    for drawn in of_diagnosis(found):
        if drawn is not None:
            target = PAGE.with_name(f"diagnose-{task.name}-{drawn.name}.svg")
            svg = style.to_svg(drawn.figure, f"{task.name}-{drawn.name}")
            svg = svg.replace("<svg", '<svg style="background: white"', 1)
            target.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
            lines.append(f"![{drawn.alt}]({target.name})")
    return lines


def summary_table(found: Sequence[tuple[Task, Diagnosis]]) -> str:
    rows = []
    for task, d in found:
        head = next(name.split("/")[1] for name in d.figures if name.startswith("head/"))
        rank = None if d.cuts is None else d.cuts.rank_at(NAMED_LOSS)
        rows.append(
            (
                task.title,
                f"{d.vocab_size:,} x {d.hidden_size}",
                f"{d.tokens:,}",
                plus_minus(d.loss),
                f"{d.figures[f'head/{head}/effective_rank']:.1f}",
                f"{d.figures[f'head/{head}/singular_entropy']:.3f}",
                f"{d.figures['hidden/head_input/anisotropy']:.3f}",
                f"{d.figures['retention/relative']:.2f}",
                f"{d.figures['unargmaxable/unargmaxable']:.0f}",
                "none" if rank is None else str(rank),
                "" if d.cuts is None else str(d.cuts.knee),
            )
        )
    header = (
        "model",
        "head",
        "tokens",
        "loss",
        "effective rank",
        "singular entropy",
        "anisotropy",
        "retention x V/D",
        "unargmaxable",
        f"loses {NAMED_LOSS} at rank",
        "knee",
    )
    return table(header, rows)


def probe_table(found: Sequence[tuple[Task, Diagnosis]]) -> str:
    rows = [
        (
            task.title,
            " / ".join(f"{count:,}" for count in d.headroom.tokens),
            plus_minus(d.headroom.gain),
            plus_minus(d.headroom.power, percent=True),
            plus_minus(d.headroom.planted),
            plus_minus(d.headroom.adaptation),
            f"{d.headroom.seconds:.0f} s of {d.headroom.planned_seconds:.0f} s",
        )
        for task, d in found
        if d.headroom is not None and not d.headroom.cannot
    ]
    header = ("model", "tokens to fit, choose, report", "gain", "power", "planted", "adaptation", "time")
    return table(header, rows)


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 108)


def _short(value: object) -> str:
    path = Path(str(value))
    return path.name if path.is_absolute() else str(value)


OPENING = """{machine}. One run of each model: the llama2.c model stories260K on TinyStories (which of them
it was trained on is not known), and the plain heads at three widths of the saturation study, seed 1, on
their corpus's valid split. The probe may take {minutes:g} minutes a model. Intervals are 95 %
cluster-robust t intervals over documents, or over blocks of the text where there are few."""

PROBE = """Gain: of the best candidate head over a linear correction of the same size, in nats a token, on
a third part of the documents; it is a lower bound at this number of tokens. Power: the share of a planted
loss that the same search wins back; under a half nothing is concluded. Adaptation: what the linear
correction gains over the head as it is, which is no headroom. On languages of known rank the gain agrees
with what is there to gain times the power; where power is middling, the control is somewhat easier than
the truth and promises a little too much: see [measurements](../measurements.md#the-head-probe)."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stories", type=Path, required=True, help="llama2.c's stories260K.bin")
    parser.add_argument("--stories-text", type=Path, required=True, help="TinyStories, valid split")
    parser.add_argument("--study", type=Path, default=Path("checkpoints/saturation"))
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--output", type=Path, default=Path("checkpoints/diagnosis"))
    write(parser.parse_args())
