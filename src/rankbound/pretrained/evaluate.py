"""`rankbound evaluate`: what a model scores on minimal pairs, last words, texts and the harness's tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from rankbound.corpora.sources import Reading
from rankbound.errors import InputError
from rankbound.pretrained.code_length import code_length, read_texts
from rankbound.pretrained.devices import Device
from rankbound.pretrained.evaluation_table import print_figures
from rankbound.pretrained.harness import harness_tasks
from rankbound.pretrained.lambada import lambada as last_words
from rankbound.pretrained.lambada import read_passages
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.minimal_pairs import minimal_pairs, read_paradigms
from rankbound.pretrained.scores import Figure, as_table
from rankbound.pretrained.scoring import BATCH_TOKENS, Progress
from rankbound.pretrained.texts import TextModel
from rankbound.runs import write_once


def evaluate(
    model: str,
    *,
    blimp: str | None = None,
    lambada: str | None = None,
    text: str | None = None,
    tasks: str | None = None,
    task_files: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    document_separator: str | None = None,
    text_field: str = "text",
    revision: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: Device = "auto",
    output: Path | None = None,
) -> pd.DataFrame:
    """Score a model; every text begins after the model's end of text, as documents do in training.

    What is longer than the model reads goes in windows that slide by half of that.

    Args:
        model: A run folder, an exported or transformers folder, a llama2.c file, or a Hugging Face id.
        blimp: Minimal pairs: a folder of .jsonl files, a file, or a Hugging Face id (nyu-mll/blimp).
        lambada: LAMBADA's passages: a .jsonl file, or a Hugging Face id (EleutherAI/lambada_openai).
        text: Nats per token and bits per byte of any text that rankbound prepare reads.
        tasks: Tasks of the EleutherAI harness by name, with commas between (needs lm_eval).
        task_files: Folder of the harness's YAML task files, for tasks of your own or offline.
        num_fewshot: Examples before each question of a harness task; the task's own number by default.
        limit: The first so many pairs of each paradigm, passages, documents and items of a task.
        document_separator: Cut the text's documents where this stands.
        text_field: Field of the text's rows.
        revision: Of a Hugging Face id: branch, tag or commit.
        batch_tokens: Tokens a batch, with padding.
        device: Where to compute; auto takes a GPU where there is one.
        output: Also write all numbers to this .csv file: task, metric, value, stderr, n.
    """
    names = [name for name in (tasks or "").split(",") if name]
    _check(blimp, lambada, text, names, task_files, limit, batch_tokens, output)
    reading = Reading(text_field=text_field, document_separator=document_separator)
    own = TextModel.of(load_pretrained(model, revision), device)
    figures = _on_texts(own, blimp, lambada, text, reading, limit, batch_tokens)
    if names:
        figures += harness_tasks(own, names, task_files, num_fewshot, limit, batch_tokens)
    table = as_table(figures)
    print_figures(table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_once(output, table.to_csv(index=False, lineterminator="\n"))
        Console(soft_wrap=True).print(f"Scores: {output}", highlight=False, markup=False)
    return table


def _on_texts(
    own: TextModel,
    blimp: str | None,
    lambada: str | None,
    text: str | None,
    reading: Reading,
    limit: int | None,
    batch_tokens: int,
) -> list[Figure]:
    """What is scored without the harness."""
    figures: list[Figure] = []
    if blimp is not None:
        paradigms = read_paradigms(blimp, limit)
        with _progress(f"BLiMP, {len(paradigms)} paradigms") as progress:
            figures += minimal_pairs(own, paradigms, batch_tokens, progress)
    if lambada is not None:
        passages = read_passages(lambada, limit)
        with _progress(f"LAMBADA, {len(passages):,} passages") as progress:
            figures += last_words(own, passages, batch_tokens, progress)
    if text is not None:
        texts = read_texts(text, reading, limit)
        with _progress(f"{text}, {len(texts):,} documents") as progress:
            figures += code_length(text, own, texts, batch_tokens, progress)
    return figures


def _check(
    blimp: str | None,
    lambada: str | None,
    text: str | None,
    tasks: list[str],
    task_files: Path | None,
    limit: int | None,
    batch_tokens: int,
    output: Path | None,
) -> None:
    if not tasks and blimp is None and lambada is None and text is None:
        raise InputError("nothing to evaluate: name --blimp, --lambada, --text or --tasks")
    if task_files is not None and not tasks:
        raise InputError(f"task_files {task_files} is of no use without --tasks")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1")
    if batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    if output is not None and output.suffix != ".csv":
        raise InputError(f"output {output} is no .csv file: name one")
    if output is not None and (blocked := [p for p in (output, *output.parents) if _in_the_way(p, output)]):
        raise InputError(f"output {output} cannot be written: {blocked[0]} is in the way")


def _in_the_way(path: Path, output: Path) -> bool:
    """A folder where the file is to be, or a file where its folder is to be."""
    return path.is_dir() if path == output else path.exists() and not path.is_dir()


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on the terminal: tokens scored, and the time left."""
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
