"""What the report reads out of a run, so that table, sentences and figures agree.

Design decisions:
- A value is the summary's where the run finished, else the last one recorded: a killed run compares
  too, and says how far it came.
- A mixture has one matrix a component; its spectral scalars are means over the components. A head that
  records other matrices beside the one that reads is shown by that one.
- A cell is a configuration without its seed: runs of a cell differ by luck, cells by design.
- A file's place is no setting: two runs in different folders still share a cell.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rankbound.errors import InputError
from rankbound.runs import CONFIG, Run

_SEEDS = frozenset({"seed", "seed_everything"})
_PLACES = frozenset({"run_dir", "default_root_dir", "save_dir", "dirpath", "ckpt_path", "config"})


def setting(run: Run, dotted: str) -> Any:
    """A value of config.yaml by its dotted name; raises `InputError` where it is absent."""
    value: Any = run.config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(
                f"{run.path / CONFIG} has no {dotted}, which `rankbound fit` writes: "
                "leave this folder out or train the run again"
            )
        value = value[key]
    return value


def head(run: Run) -> str:
    """The head as it is shown, such as `Factorized(rank=16)`."""
    return str(setting(run, "derived.head"))


def width(run: Run) -> int:
    """The model's hidden size."""
    return int(setting(run, "model.hidden_size"))


def corpus(run: Run) -> str:
    """The sha256 that stands for text, split and tokenizer."""
    return str(setting(run, "data.corpus_sha256"))


def known(run: Run, name: str) -> float:
    """A number that is known of the run's text alone, such as `derived.entropy`; NaN where it is not."""
    value = (run.config.get("derived") or {}).get(name)
    return math.nan if value is None else float(value)


def excess_loss(run: Run) -> float:
    """Validation loss above that of the language which made the text; NaN where that is not known.

    Where the run says what the language scores on the validated windows, above that: their luck cancels.
    """
    reference = known(run, "true_loss")
    return final(run, "valid/loss") - (known(run, "entropy") if math.isnan(reference) else reference)


def finished(run: Run) -> bool:
    """Whether the run came to its end, as its summary says."""
    return run.summary.get("status") == "finished"


def order(run: Run) -> tuple[Any, ...]:
    """Sort key: hidden size, then head, seed and folder."""
    texts = (head(run), str(run.config.get("seed_everything")), str(run.path))
    return width(run), *map(_natural, texts)


def final(run: Run, name: str) -> float:
    """The summary's value or the last recorded one; NaN where it was never written."""
    value = run.summary.get(name)
    if value is not None:
        return float(value)
    series = run.series(name)
    return float(series.iloc[-1]) if len(series) else math.nan


def shown_matrices(names: Sequence[str]) -> list[str]:
    """All components of a mixture; of another head the first matrix, the one that reads the state."""
    found = list(dict.fromkeys(names))
    return found if all(name.startswith("component_") for name in found) else found[:1]


def head_series(run: Run, scalar: str) -> pd.Series[float]:
    """A spectral scalar of the head over steps, the mean over a mixture's components; empty without any."""
    matrix = run.metrics["name"].str.extract(f"^head/(.+)/{scalar}$")[0]
    rows = run.metrics[matrix.isin(shown_matrices(matrix.dropna().tolist()))]
    complete = rows.groupby("step").size() == rows["name"].nunique()  # a kill can split a step
    matrices = rows.pivot(index="step", columns="name", values="value")
    return matrices[complete].mean(axis=1, skipna=False)


def layers(run: Run, scalar: str) -> dict[str, float]:
    """The last value for every layer: `0` (embedding), `1`, ..., then `head_input`."""
    rows = run.metrics[run.metrics["name"].str.fullmatch(f"hidden/.+/{scalar}")]
    last = rows.groupby("name", sort=False)["value"].last()
    by_layer = {str(name).split("/")[1]: float(value) for name, value in last.items()}
    return dict(sorted(by_layer.items(), key=lambda item: (not item[0].isdigit(), len(item[0]), item)))


def last_step(run: Run) -> int:
    """The last step of a finished run, else the last one recorded."""
    return int(run.summary.get("step", run.metrics["step"].max()))


def tokens(run: Run) -> int:
    """Training tokens behind the validation loss shown; behind the last row where there is none."""
    if "tokens" in run.summary:
        return int(run.summary["tokens"])
    validated = run.metrics[run.metrics["name"] == "valid/loss"]
    return int((validated if len(validated) else run.metrics)["tokens"].iloc[-1])


def progress(run: Run) -> str:
    """`finished`, or how far the run came."""
    if finished(run):
        return "finished"
    return f"step {last_step(run):,} of {setting(run, 'model.total_steps'):,}, not finished"


def matched(run: Run) -> str:
    """What the run's budget was matched to and by which size; empty where it was not."""
    found = run.config.get("derived", {}).get("matched")
    if not found:
        return ""
    budget = {"flops": "forward FLOPs a token"}.get(found["budget"], found["budget"])
    by = "as given" if found["by"] is None else f"by {found['by']} = {found['value']}"
    return f"to {found['to']} in {budget}, {by}"


def learning_rates(run: Run) -> str:
    """Every learning rate among the settings, as text; empty where none is named so."""
    settings = flat(run.config)
    return ", ".join(v for k, v in settings.items() if k.split(".")[-1] in ("learning_rate", "lr"))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and text; a class with its arguments stays one value."""
    flattened: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            flattened |= flat(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = _text(value)
    return flattened


def choices(run: Run) -> dict[str, str]:
    """The settings that make a run what it is: without derived sizes and places on the disk."""
    settings = flat({k: v for k, v in run.config.items() if k != "derived"})
    return {k: v for k, v in settings.items() if k.split(".")[-1] not in _PLACES}


def cells(runs: Sequence[Run]) -> list[int]:
    """A number for each run, equal where only the seed differs, counted in the order given."""
    keys = []
    for run in runs:
        chosen = {k: v for k, v in choices(run).items() if k.split(".")[-1] not in _SEEDS}
        keys.append(json.dumps(chosen, sort_keys=True))
    distinct = list(dict.fromkeys(keys))
    return [distinct.index(key) for key in keys]


def names(runs: Sequence[Run]) -> list[str]:
    """Folder names, as much of each as tells them apart."""
    paths = [run.path.resolve() for run in runs]
    above = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(Path(above)).as_posix() for path in paths]


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key in which `rank=8` comes before `rank=16`."""
    pieces = re.split(r"(\d+)", text)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = flat(value.get("init_args") or {})
        inner = ", ".join(f"{k}={v}" for k, v in arguments.items())
        return f"{str(value['class_path']).rpartition('.')[2]}({inner})"
    return value if isinstance(value, str) else json.dumps(value, default=str)
