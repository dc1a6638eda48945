"""A study folder with planted curves: what the report must find in it is known.

Loss is 3 + 6 / width^0.5 + 8 / tokens_in_thousands^0.5, less each head's `gain`, plus the seed's luck. At
weight decay 0 a Linear head no wider than 16 rises by 0.12 nats from half of training on, and so does its
singular entropy; no other curve rises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rankbound.runs import CONFIG, ENVIRONMENT, SUMMARY, RunWriter, write_json

GAIN = {
    "Linear": 0.0,
    "Factorized(rank=8)": -0.15,
    "ForwardFactorized(rank=8)": -0.1,
    "BackwardFactorized(rank=8)": -0.02,
    "MixtureOfSoftmaxes(components=4)": 0.08,
}
HEADS = tuple(GAIN)
TOKENS_PER_STEP, VOCAB = 2048, 2048
AXES = ["model.head", "model.hidden_size", "model.optimizer.weight_decay", "model.schedule"]
LUCK, RISE = 0.012, 0.12


def plant(
    folder: Path,
    heads: Sequence[str] = HEADS[:2],
    widths: Sequence[int] = (8, 32),
    decays: Sequence[float] = (0.1,),
    schedules: Sequence[str] = ("Cosine",),
    seeds: int = 3,
    *,
    total_steps: int = 4000,
    records: int = 40,
) -> Path:
    """Write the study and its run folders; returns the folder."""
    folder.mkdir(parents=True)
    spec = {
        "name": folder.name,
        "question": "Does a small model saturate because its head has too little rank?",
        "axes": dict(zip(AXES, map(list, (heads, widths, decays, schedules)), strict=True)),
        "seeds": list(range(seeds)),
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    rows, curves = [], []
    for head, width, decay, schedule in product(heads, widths, decays, schedules):
        for seed in range(seeds):
            values = dict(zip(AXES, (head, width, decay, schedule), strict=True))
            row, metrics = _plant_run(folder, values, seed, total_steps, records)
            rows.append(row)
            curves.append(metrics)
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    pd.concat(curves, ignore_index=True).to_parquet(folder / "curves.parquet")
    return folder


def loss_at(head: str, width: int, decay: float, step: np.ndarray, total: int) -> np.ndarray:
    """The planted validation loss, without luck, in nats."""
    tokens = np.maximum(step, 1) * TOKENS_PER_STEP / 1e3
    loss = 3 + 6 / width**0.5 + 8 / tokens**0.5 - GAIN[head]
    return loss + (RISE * _late(step, total) if saturates(head, width, decay) else 0.0)


def saturates(head: str, width: int, decay: float) -> bool:
    return head == "Linear" and width <= 16 and decay == 0


def _late(step: np.ndarray, total: int) -> np.ndarray:
    return np.clip(2 * step / total - 1, 0, 1)


def _plant_run(
    folder: Path, values: dict[str, Any], seed: int, total: int, records: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    head, width, decay, _ = values.values()
    cell = "-".join(str(value).partition("(")[0].lower() for value in values.values())
    run = f"{cell}-s{seed}"
    luck = np.random.default_rng([seed, width, len(head)])
    steps = np.unique([0, *np.geomspace(1, total, records).round().astype(int)])
    shared = LUCK * np.random.default_rng(seed).standard_normal()
    loss = loss_at(head, width, decay, steps, total) + shared
    loss = loss + LUCK / 4 * luck.standard_normal(len(steps))
    path = folder / run
    sizes = {"embedding": VOCAB * width, "body": 24 * width**2, "head": VOCAB * width}
    sizes["total"] = sum(sizes.values())
    _write_settings(path, values, seed, total, sizes)
    late = _late(steps, total) * (1 if saturates(head, width, decay) else 0.1)
    matrices = [f"component_{k}" for k in range(4)] if head.startswith("Mixture") else ["weight"]
    writer, written = RunWriter(path), []
    for step, value, rise in zip(steps, loss, late, strict=True):
        metrics = {"valid/loss": value, "valid/bits_per_byte": value / math.log(2) / 4}
        metrics["hidden/head_input/anisotropy"] = 0.1 + 0.3 * rise + 0.1 * (1 - math.exp(-step / 300))
        metrics["tokens_per_second"] = 3e4
        for matrix in matrices:
            spectrum = _spectrum(int(step), width, rise)
            share = spectrum / spectrum.sum()
            entropy = float(-(share * np.log(share)).sum())
            metrics[f"head/{matrix}/singular_entropy"] = math.log(width) - entropy
            metrics[f"head/{matrix}/effective_rank"] = math.exp(entropy)
            writer.spectrum(int(step), matrix, spectrum.tolist())
        tokens = int(step) * TOKENS_PER_STEP
        writer.metrics(int(step), tokens, metrics)
        written += [(run, int(step), tokens, name, float(v)) for name, v in metrics.items()]
    writer.close()
    final = {name: value for _, _, _, name, value in written[-len(metrics) :]}
    seconds = 40.0 + width
    done = {"status": "finished", "step": total, "tokens": total * TOKENS_PER_STEP, "seconds": seconds}
    write_json(path / SUMMARY, done | final)
    best = int(np.argmin(loss))
    row = {"run": run, "cell": cell, "seed": seed, "state": "finished", **values}
    row |= {"hidden_size": width, "vocab_size": VOCAB, "steps": total, "tokens": done["tokens"]}
    row |= {"parameters": sizes["total"], "head_parameters": sizes["head"]}
    row |= {"embedding_parameters": sizes["embedding"], "body_parameters": sizes["body"]}
    row |= {"flops_per_token": 2.0 * sizes["total"], "seconds": seconds, **final}
    row |= {"best/valid/loss": float(loss[best]), "best_step/valid/loss": int(steps[best])}
    return row, pd.DataFrame(written, columns=["run", "step", "tokens", "name", "value"])


def _write_settings(
    path: Path, values: dict[str, Any], seed: int, total: int, sizes: dict[str, int]
) -> None:
    path.mkdir()
    config = {
        "seed_everything": seed,
        "model": {
            "hidden_size": values["model.hidden_size"],
            "vocab_size": VOCAB,
            "total_steps": total,
            "head": values["model.head"],
            "optimizer": {
                "learning_rate": 0.01,
                "weight_decay": values["model.optimizer.weight_decay"],
            },
            "schedule": {"class_path": f"rankbound.training.schedules.{values['model.schedule']}"},
        },
        "data": {"corpus": "data/sotu", "seed": seed, "corpus_sha256": "c0ffee" * 10 + "beef"},
        "derived": {
            "head": values["model.head"],
            "rank_bound": None,
            "parameters": sizes,
            "unigram_entropy": 7.2,
            "corpus_name": "sotu",
        },
    }
    (path / CONFIG).write_text(yaml.safe_dump(config))
    write_json(path / ENVIRONMENT, {"torch": "2.13.0", "rankbound": "0.1.0", "device": "CPU"})


def _spectrum(step: int, width: int, rise: float) -> np.ndarray:
    """Flattens first, then one value rises out of the rest."""
    place = np.arange(1, width + 1) / width
    values = np.exp(-(0.3 + 1.5 * math.exp(-step / 100)) * place)
    values[0] *= 1 + 8 * rise
    return values
