"""The log-probabilities of the same tokens at every checkpoint of runs, or of suites of other models.

Design decisions:
- Runs of ours are scored on their corpus's valid split, in windows as in validation, so that the perplexity
  of all tokens is the run's own; the shortest window of the runs serves all, and they must share a corpus.
- Anything else is a suite: revisions of a Hugging Face id, or a folder of checkpoint folders, scored on a
  text of the user's.
- A suite's checkpoint that gives every token the probability of the one before is a copy and left out:
  published suites have some, and they would count as stagnation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from rankbound.analysis.trajectories import FEWEST, Measured, Trajectory
from rankbound.corpora import Corpus
from rankbound.corpora.generated import Generated, open_corpus
from rankbound.corpora.sources import Reading
from rankbound.errors import InputError
from rankbound.pretrained.code_length import read_texts
from rankbound.pretrained.devices import Device, on_device
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.scoring import Piece, score
from rankbound.pretrained.texts import TextModel
from rankbound.runs import CONFIG, Run, load_run
from rankbound.training.language_model import LanguageModel
from rankbound.training.trained import trained_model

_STEP = re.compile(r"(\d+)$")
_CHECKPOINTS = "step=*.ckpt"


def measure(
    runs: Sequence[Path],
    revisions: Sequence[str] = (),
    text: str | None = None,
    max_tokens: int = 16_384,
    device: Device = "auto",
) -> Measured:
    """Score every checkpoint.

    Args:
        runs: run folders with `step=N.ckpt` files; or suites, all of one tokenizer: folders of checkpoint
            folders whose names end in the step, or, with `revisions`, Hugging Face ids.
        revisions: of each id, such as step1000, in order.
        text: what suites are scored on, as `rankbound prepare` reads it.
        max_tokens: score no more than so many.
        device: where to compute.

    Raises:
        InputError: fewer than three checkpoints, runs of different corpora, or a text where there must be
            none or none where there must be one.
    """
    if not runs:
        raise InputError("no run to follow: name at least one run folder or suite")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; it must be at least 1")
    ours = [(path / CONFIG).is_file() for path in runs]
    if any(ours) and not all(ours):
        other = runs[ours.index(False)]
        raise InputError(f"{other} is no run folder and the others are: their tokens do not compare")
    if all(ours):
        if text is not None or revisions:
            raise InputError("runs are scored on their corpus's valid split: leave out text and revisions")
        return _of_runs([load_run(path) for path in runs], max_tokens, device)
    if text is None:
        raise InputError(f"{runs[0]} is no run folder: name what its checkpoints are scored on by --text")
    return _of_suites([_checkpoints(path, revisions) for path in runs], text, max_tokens, device)


def _of_runs(runs: Sequence[Run], max_tokens: int, device: Device) -> Measured:
    corpus = _one_corpus(runs)
    window = min(int(run.config["data"]["window"]) for run in runs)
    stream = corpus.tokens("valid")
    count = min(max_tokens, len(stream) - 1) // window
    if not count:
        raise InputError(f"max_tokens is {max_tokens}, less than one window of {window}")
    ids = stream[: count * window + 1].astype(np.int64)
    pieces = [Piece(ids[i : i + window + 1].tolist()) for i in range(0, count * window, window)]
    found = []
    for run in runs:
        steps = _saved_steps(run)
        models = (trained_model(run, f"step={step}.ckpt") for step in steps)
        log_prob = [
            _log_prob(model, pieces, window, device) for model in _watched(models, run.path.name, steps)
        ]
        size = int(run.config.get("derived", {}).get("parameters", {}).get("total", 0))
        found.append(Trajectory(run.path.name, size, np.array(steps), np.stack(log_prob)))
    texts = {int(i): corpus.decode([int(i)]) for i in np.unique(ids[1:])}
    scored = f"{count * window:,} tokens of the valid split of {corpus.path.name}, windows of {window}"
    return Measured(_by_size(found), ids[1:], texts, scored, [])


@dataclass(frozen=True)
class Suite:
    """Checkpoints of one model: step, source and revision of each."""

    name: str
    checkpoints: list[tuple[int, str, str | None]]


def _of_suites(suites: Sequence[Suite], text: str, max_tokens: int, device: Device) -> Measured:
    documents = read_texts(text, Reading())
    pieces: list[Piece] | None = None
    found, copies = [], []
    for suite in suites:
        steps: list[int] = []
        log_prob: list[NDArray[np.float32]] = []
        size = 0
        for step, source, revision in track(
            suite.checkpoints, suite.name, console=Console(stderr=True), disable=not sys.stderr.isatty()
        ):
            model = TextModel.of(load_pretrained(source, revision))
            own = _first_tokens(model.documents(documents), max_tokens)
            if pieces is None:
                pieces, reader = own, model
            elif [list(p.ids) for p in own] != [list(p.ids) for p in pieces]:
                raise InputError(f"{suite.name} cuts the text into other tokens than {suites[0].name} does")
            values = _log_prob(model.model, own, model.context, device)
            if log_prob and np.array_equal(values, log_prob[-1]):
                copies.append(f"{suite.name} step {step:,}")
                continue
            steps.append(step)
            log_prob.append(values)
            size = sum(p.numel() for p in model.model.parameters())
        if len(steps) < FEWEST:
            raise InputError(f"{suite.name} has {len(steps)} different checkpoints: {FEWEST} are needed")
        found.append(Trajectory(suite.name, size, np.array(steps), np.stack(log_prob)))
    assert pieces is not None
    tokens = np.concatenate([np.asarray(p.ids[p.scored_from :], np.int64) for p in pieces])
    texts = {int(i): reader.decode([int(i)]) for i in np.unique(tokens)}
    scored = f"{len(tokens):,} tokens of {text}, each document on its own"
    return Measured(_by_size(found), tokens, texts, scored, copies)


def _log_prob(
    model: LanguageModel, pieces: Sequence[Piece], context: int, device: Device
) -> NDArray[np.float32]:
    scores = score(on_device(model, device), pieces, context)
    return np.concatenate([s.log_prob for s in scores]).astype(np.float32)


def _watched(models: Iterator[LanguageModel], name: str, steps: Sequence[int]) -> Iterator[LanguageModel]:
    """The models as they are loaded, with a bar and the time left on a terminal."""
    quiet = not sys.stderr.isatty()
    yield from track(models, name, total=len(steps), console=Console(stderr=True), disable=quiet)


def _one_corpus(runs: Sequence[Run]) -> Corpus:
    """The corpus of all runs; raises `InputError` where there are several, or a language."""
    names = {str(run.config["data"].get("corpus_sha256")): run for run in runs}
    if len(names) > 1:
        first, second = list(names.values())[:2]
        raise InputError(f"{first.path} and {second.path} are of different corpora: tokens do not compare")
    corpus = open_corpus(runs[0].config["data"]["corpus"])
    if isinstance(corpus, Generated):
        raise InputError(f"{corpus.path} is a language: its tokens stand for no text that could be shown")
    return corpus


def _saved_steps(run: Run) -> list[int]:
    steps = sorted(int(path.stem.partition("=")[2]) for path in run.path.glob(_CHECKPOINTS))
    if len(steps) < FEWEST:
        raise InputError(
            f"{run.path} has {len(steps)} checkpoints of a known step and {FEWEST} are needed: train with "
            "--checkpoints.every N and --checkpoints.keep_last of as many as you want"
        )
    return steps


def _checkpoints(path: Path, revisions: Sequence[str]) -> Suite:
    """The checkpoints of a folder of folders, or the revisions of an id."""
    if revisions:
        return Suite(path.name, [(_step(revision), str(path), revision) for revision in revisions])
    folders = [folder for folder in path.glob("*") if folder.is_dir() and _STEP.search(folder.name)]
    if not folders:
        raise InputError(
            f"{path} is no run folder and holds no checkpoint folders named by their step; of a Hugging "
            "Face id name the --revisions"
        )
    checkpoints = sorted((_step(folder.name), str(folder)) for folder in folders)
    return Suite(path.name, [(step, folder, None) for step, folder in checkpoints])


def _step(name: str) -> int:
    found = _STEP.search(name)
    if not found:
        raise InputError(f"{name} does not end in a step, as step1000 does")
    return int(found[1])


def _first_tokens(pieces: Sequence[Piece], count: int) -> list[Piece]:
    """Whole pieces, the last one cut, with `count` scored tokens in all."""
    kept: list[Piece] = []
    for piece in pieces:
        own = min(count, max(len(piece.ids) - piece.scored_from, 0))
        if own:
            kept.append(Piece(piece.ids[: piece.scored_from + own], piece.scored_from))
        count -= own
    return kept


def _by_size(found: list[Trajectory]) -> list[Trajectory]:
    return sorted(found, key=lambda trajectory: (trajectory.size, trajectory.name))
