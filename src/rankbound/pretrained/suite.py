"""`rankbound diagnose --suite ID`: the same measurements over the checkpoints of one model.

Design decisions:
- One checkpoint is in memory at a time. A download of the hub is removed once it is measured, unless it
  was in the cache before; what was broken off is gone on with (`hub.py`).
- Weights are hashed. A checkpoint with the weights of one before it is named as its copy and not measured
  again: published suites have branches that hold the same late weights.
- CKA to the final state needs the last checkpoint's states, so a sample of every layer's is kept on disk,
  in half precision, until the end. It is the unbiased estimate.
- A checkpoint that cannot be read is a note, and the others are measured.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean
from rankbound.corpora.sources import Reading
from rankbound.errors import InputError
from rankbound.metrics.similarity import linear_cka
from rankbound.pretrained.diagnose import BATCH, Stages, observe, sample_of
from rankbound.pretrained.hub import download, is_hub_id
from rankbound.pretrained.subject import Subject, load_subject
from rankbound.pretrained.text_windows import Text, windows_of
from rankbound.runs import CONFIG, write_once
from rankbound.training.checkpoint_io import step_checkpoints
from rankbound.training.initial import weights_sha256
from rankbound.training.measurements.gradient import Retention
from rankbound.training.measurements.head import HeadSpectrum
from rankbound.training.measurements.states import StateGeometry

_STEP = re.compile(r"(\d+)$")
_ROWS = 1024  # states kept of each layer
_PATIENCE = 2  # checkpoints that cannot be read before the first that can


@dataclass(frozen=True)
class Suite:
    """The checkpoints of one model on one text.

    `table` has a row a checkpoint: `revision`, `step`, `sha256` of the weights, `copy_of` (the revision
    with the same weights, or empty), `loss` and its `loss_half_width`, `singular_entropy`, `effective_rank`
    and `stable_rank` of the head, `anisotropy` of its input, `retention` (over hidden size / vocabulary),
    `cka` of its input to the last one, and `anisotropy/LAYER` and `cka/LAYER`. A copy has its original's
    numbers.
    """

    name: str
    text: str
    tokens: int
    table: pd.DataFrame
    notes: tuple[str, ...]
    command: str

    @property
    def copies(self) -> str:
        """A sentence that names them; empty where there are none."""
        found = self.table[self.table["copy_of"] != ""]
        if found.empty:
            return ""
        named = "; ".join(f"{row.revision} of {row.copy_of}" for row in found.itertuples())
        return f"{len(found)} of {len(self.table)} checkpoints hold the weights of another: {named}."


def diagnose_suite(
    suite: str,
    revisions: str | None = None,
    corpus: str | None = None,
    *,
    text_field: str = "text",
    document_separator: str | None = None,
    tokens: int = 16_384,
    window: int | None = None,
    seed: int = 0,
    output: Path = Path("checkpoints/suite.html"),
) -> tuple[Suite, Path]:
    """Measure the checkpoints of a model on one text: head, states, retention and loss over training.

    Args:
        suite: A Hugging Face id, a run's folder, or a folder of checkpoint folders named by their step.
        revisions: Of the id or the run, with commas between them; of a folder all if not given.
        corpus: A prepared corpus or a text to measure on; of a run, its own valid split if not given.
        text_field: Of the text's rows, where it has fields.
        document_separator: Cut the text's documents where this stands, such as <|endoftext|>.
        tokens: Measure on about so many.
        window: Tokens that the model reads at once; its context, 1,024 at most, if not given.
        seed: Of samples.
        output: The report; its table goes beside it as .csv.

    Raises:
        InputError: Fewer than two checkpoints, none that can be read, or a text that does not fit.
    """
    if output.suffix != ".html":
        raise InputError(f"output {output} is no .html file: name one")
    reading = Reading(text_field=text_field, document_separator=document_separator)
    named = _checkpoints(suite, revisions)

    def cut(subject: Subject) -> Text:
        return windows_of(subject, corpus, tokens, window, reading)

    with tempfile.TemporaryDirectory() as kept:
        rows, notes, text = _measure_all(named, cut, Path(kept), output, seed)
        if text is None or len(rows) < 2:
            raise InputError(f"{suite}: {len(rows)} checkpoints could be read, two are needed. {notes[0]}")
        _compare(rows, Path(kept))
    found = Suite(
        name=Path(suite).resolve().name if Path(suite).is_dir() else suite,
        text=text.name,
        tokens=text.size,
        table=_write_table(rows, output),
        notes=tuple(notes),
        command=shlex.join(["rankbound", *sys.argv[1:]]),
    )
    return found, output


def _measure_all(
    named: Sequence[tuple[str, str, str | None]],
    cut: Callable[[Subject], Text],
    kept: Path,
    output: Path,
    seed: int,
) -> tuple[list[dict[str, object]], list[str], Text | None]:
    """A row for each checkpoint that can be read, a note for each other, and the text of them all."""
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    text: Text | None = None
    for revision, source, at in named:
        loaded = False
        stage = f"{revision} ({len(rows) + len(notes) + 1} of {len(named)})"
        try:
            with Stages()(stage), _fetched(source, at):
                subject = load_subject(source, at)
                loaded = True
                text = text or cut(subject)
                rows.append(_measured(subject, revision, text, rows, kept, seed))
                del subject
        except InputError as unread:
            if (loaded and text is None) or (not rows and len(notes) == _PATIENCE):
                raise
            notes.append(f"Not measured, {revision}: {unread}.")
            continue
        _write_table(rows, output)
    return rows, notes, text


def _checkpoints(suite: str, revisions: str | None) -> list[tuple[str, str, str | None]]:
    """Names, sources and revisions of the checkpoints, in order of the step where that is known."""
    asked = [name.strip() for name in (revisions or "").split(",") if name.strip()]
    folder = Path(suite)
    if (folder / CONFIG).is_file():
        found = asked or [f"step{step}" for step in step_checkpoints(folder)]
        named: list[tuple[str, str, str | None]] = [(name, suite, name) for name in found]
    elif folder.is_dir():
        inside = {path.name: path for path in folder.iterdir() if path.is_dir() and _STEP.search(path.name)}
        if missing := [name for name in asked if name not in inside]:
            raise InputError(f"{suite} has no checkpoint folder {missing[0]}")
        chosen = asked or sorted(inside, key=_step)
        named = [(name, str(inside[name]), None) for name in chosen]
    elif is_hub_id(suite):
        if not asked:
            raise InputError(
                f"{suite} is a Hugging Face id: name its --revisions, such as step1000,step2000"
            )
        named = [(name, suite, name) for name in asked]
    else:
        raise InputError(f"{suite} does not exist, and it is no Hugging Face id (owner/name)")
    if len(named) < 2:
        raise InputError(
            f"{suite} has {len(named)} checkpoints and two are needed: of a run keep more with "
            "--checkpoints.keep_last, of a folder name its checkpoints' folders by their step"
        )
    return named


@contextmanager
def _fetched(source: str, revision: str | None) -> Iterator[None]:
    """A revision of the hub while it is needed; it is removed after, unless it was there before."""
    if Path(source).exists():
        yield
        return
    before = cached_commits(source)
    commit = ""
    try:
        commit = download(source, revision).name
        yield
    finally:
        if commit and commit not in before:
            remove_commit(source, commit)


def cached_commits(repo: str) -> set[str]:
    """Commits of a model that are in the local cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return set()
    return {r.commit_hash for found in cache.repos if found.repo_id == repo for r in found.revisions}


def remove_commit(repo: str, commit: str) -> None:
    """Free what no other revision in the cache needs."""
    from huggingface_hub import scan_cache_dir

    if commit in cached_commits(repo):
        scan_cache_dir().delete_revisions(commit).execute()


def _measured(
    subject: Subject,
    revision: str,
    text: Text,
    rows: Sequence[dict[str, object]],
    kept: Path,
    seed: int,
) -> dict[str, object]:
    """A row of the table; a sample of the states is left in `kept`."""
    digest = weights_sha256(subject.model)
    row: dict[str, object] = {
        "revision": revision,
        "step": _step(revision),
        "sha256": digest,
        "copy_of": "",
    }
    for other in rows:
        if other["sha256"] == digest:
            return {**other, **row, "copy_of": str(other["copy_of"] or other["revision"])}
    if subject.vocab_size <= int(text.tokens.max()):
        raise InputError(f"{subject.name} has {subject.vocab_size:,} tokens, fewer than the text needs")
    loss = cluster_mean(_nats(subject, text), text.document)
    row |= {"loss": loss.mean, "loss_half_width": loss.half_width}
    sample = sample_of(text)
    measured = (HeadSpectrum(), StateGeometry(), Retention(seed=seed))
    seen = subject.observe(text.tokens[sample], text.targets[sample])
    figures, _, failed = observe(seen, measured, Stages())
    if failed:
        raise InputError(failed[0])
    matrix = next(name.split("/")[1] for name in figures if name.startswith("head/"))
    for name in ("singular_entropy", "effective_rank", "stable_rank"):
        row[name] = figures.get(f"head/{matrix}/{name}", math.nan)
    row["anisotropy"] = figures["hidden/head_input/anisotropy"]
    row["retention"] = figures["retention/relative"]
    states = {}
    for layer in seen.states:
        row[f"anisotropy/{layer}"] = figures[f"hidden/{layer}/anisotropy"]
        own = seen.rows(layer)
        own = own[torch.linspace(0, len(own) - 1, min(_ROWS, len(own))).long()]
        states[layer] = (own / own.abs().max().clamp(min=1e-30)).half()  # CKA does not mind the scale
    torch.save(states, kept / digest)
    return row


def _nats(subject: Subject, text: Text) -> Tensor:
    batch = max(1, BATCH // text.tokens.shape[1])
    parts = zip(torch.split(text.tokens, batch), torch.split(text.targets, batch), strict=True)
    nats = [subject.nll(subject.hidden(x).flatten(0, 1), y.flatten()).float() for x, y in parts]
    found = torch.cat(nats)
    if not torch.isfinite(found).all():
        raise InputError(f"{subject.name} gives losses that are not finite: are its weights damaged?")
    return found


def _compare(rows: list[dict[str, object]], kept: Path) -> None:
    """Add every row's CKA to the states of the last one."""
    last: dict[str, Tensor] = torch.load(kept / str(rows[-1]["sha256"]), weights_only=True)
    for row in rows:
        states: dict[str, Tensor] = torch.load(kept / str(row["sha256"]), weights_only=True)
        for layer, own in states.items():
            if layer in last:
                row[f"cka/{layer}"] = float(linear_cka(own.float(), last[layer].float(), unbiased=True))
        row["cka"] = row.get("cka/head_input", math.nan)


def _write_table(rows: Sequence[dict[str, object]], output: Path) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))
    return table


def _step(name: str) -> int:
    """The number that a revision's name ends in; -1 where it ends in none."""
    found = _STEP.search(name.removesuffix(".ckpt"))
    return int(found[1]) if found else -1
