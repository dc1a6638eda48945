"""Run folders as the trainer writes them, filled with synthetic numbers of a plausible shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from rankbound.runs import CONFIG, ENVIRONMENT, SUMMARY, Run, RunWriter, load_run, write_json

UNIGRAM_ENTROPY, TOKENS_PER_STEP, BYTES_PER_TOKEN = 6.52, 2048, 3.9
HEADS = {
    "Linear": "Linear",
    "Factorized(rank=16)": {
        "class_path": "rankbound.heads.Factorized",
        "init_args": {"rank": 16},
    },
    "MixtureOfSoftmaxes(components=4)": {
        "class_path": "rankbound.heads.MixtureOfSoftmaxes",
        "init_args": {"components": 4},
    },
}
ADVANTAGE = {"Linear": 0.0, "Factorized(rank=16)": -0.07, "MixtureOfSoftmaxes(components=4)": 0.04}


def recorded_steps(total: int) -> list[int]:
    powers = [2**k for k in range(int(math.log2(total)) + 1)]
    return sorted({0, *powers, *range(0, total, 100), total})


def synthesize(
    path: Path,
    head: str = "Linear",
    hidden_size: int = 32,
    *,
    seed: int = 1,
    total_steps: int = 300,
    stop_at: int | None = None,
    vocab_size: int = 4096,
    sha256: str = "c0ffee" * 10 + "beef",
    corpus_name: str = "sotu",
    spectra: bool = True,
    learning_rate: float = 0.003,
) -> Path:
    """A run folder at `path`; `stop_at` leaves it unfinished, `spectra` off has no matrix."""
    luck = np.random.default_rng([seed, hidden_size, len(head)])
    depth = 2 if hidden_size <= 32 else 4
    components = 4 if head.startswith("Mixture") else 1
    floor = 6.3 - 0.28 * math.log2(hidden_size / 16) - ADVANTAGE.get(head, 0.0)
    floor += 0.01 * luck.standard_normal()
    path.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "trainer": {"precision": "32-true", "default_root_dir": str(path)},
        "model": {
            "hidden_size": hidden_size,
            "num_hidden_layers": depth,
            "vocab_size": vocab_size,
            "total_steps": total_steps,
            "head": HEADS.get(head, head),
            "learning_rate": learning_rate,
        },
        "data": {
            "corpus": "data/sotu",
            "window": 128,
            "batch_size": 16,
            "corpus_sha256": sha256,
        },
        "derived": {
            "head": head,
            "rank_bound": rank_bound(head, hidden_size),
            "parameters": parameters(head, hidden_size, vocab_size, depth),
            "unigram_entropy": UNIGRAM_ENTROPY,
            "corpus_name": corpus_name,
        },
    }
    (path / CONFIG).write_text(yaml.safe_dump(config))
    environment = {
        "python": "3.11.9",
        "torch": "2.13.0",
        "lightning": "2.6.6",
        "rankbound": "0.1.0",
        "git_commit": "0123abc",
        "device": "CPU",
        "cpu_count": 2,
        "command": f"rankbound fit --config configs/demo.yaml --run_dir {path.name}",
    }
    write_json(path / ENVIRONMENT, environment)

    writer = RunWriter(path)
    end = total_steps if stop_at is None else stop_at
    for step in range(10, end + 1, 10):
        noisy = loss_at(step, floor, vocab_size) - 0.03 + 0.03 * luck.standard_normal()
        row = {"train/loss": noisy, "train/grad_norm": 1.0, "train/learning_rate": learning_rate}
        writer.metrics(step, step * TOKENS_PER_STEP, row)
    last: dict[str, float] = {}
    for step in (s for s in recorded_steps(total_steps) if s <= end):
        loss = loss_at(step, floor, vocab_size)
        last = {"valid/loss": loss, "valid/bits_per_byte": loss / math.log(2) / BYTES_PER_TOKEN}
        speed = 34e3 * 32 / hidden_size / components
        clock = {"tokens_per_second": speed, "peak_memory_bytes": 4.1e8 + 2e6 * hidden_size}
        writer.metrics(step, step * TOKENS_PER_STEP, last | clock)
        if spectra:
            for k in range(components):
                name = "weight" if components == 1 else f"component_{k}"
                values = singular_values(step, hidden_size, head) * (1 + 0.05 * k)
                writer.spectrum(step, name, values.tolist())
                writer.metrics(step, step * TOKENS_PER_STEP, spectral(name, values))
        for layer in [*range(depth + 1), "head_input"]:
            deep = depth + 1 if layer == "head_input" else int(layer)
            cosine = deep / (depth + 2) * 0.6 * (1 - math.exp(-step / 60))
            cosine += 0.02 + 0.1 * (components == 1) * deep / (depth + 1)
            scalars = {f"hidden/{layer}/anisotropy": cosine, f"hidden/{layer}/norm": 3.0 + deep}
            writer.metrics(step, step * TOKENS_PER_STEP, scalars)
    writer.close()
    if stop_at is None:
        done = {"status": "finished", "step": end, "tokens": end * TOKENS_PER_STEP}
        timing = {"seconds": 71.5, "recorder_share": 0.021}
        write_json(path / SUMMARY, done | timing | last | clock)
    return path


def rank_bound(head: str, hidden_size: int) -> int | None:
    if head.startswith("Mixture"):
        return None
    return (16 if head.startswith("Factorized") else hidden_size) + 1


def parameters(head: str, hidden_size: int, vocab_size: int, depth: int) -> dict[str, int]:
    sizes = {
        "embedding": vocab_size * hidden_size,
        "body": 12 * depth * hidden_size**2,
        "head": vocab_size * hidden_size,
    }
    if head.startswith("Factorized"):
        sizes["head"] = 16 * (vocab_size + hidden_size)
    if head.startswith("Mixture"):
        sizes["head"] += 4 * hidden_size * (hidden_size + 1)
    return sizes | {"total": sum(sizes.values())}


def loss_at(step: int, floor: float, vocab_size: int) -> float:
    return floor + (math.log(vocab_size) - floor) / math.pow(1 + step / 25, 0.8)


def singular_values(step: int, hidden_size: int, head: str) -> np.ndarray:
    place = np.arange(1, hidden_size + 1) / hidden_size
    learnt = 1 - math.exp(-step / 80)
    values = (1 + 6 * learnt) * np.exp(-(0.4 + 2.5 * learnt) * place) + 0.05
    if head.startswith("Factorized"):
        values[16:] = 1e-8
    return values


def spectral(name: str, values: np.ndarray) -> dict[str, float]:
    share = values / values.sum()
    entropy = float(-(share * np.log(share)).sum())
    energy = values**2
    return {
        f"head/{name}/effective_rank": math.exp(entropy),
        f"head/{name}/singular_entropy": math.log(len(values)) - entropy,
        f"head/{name}/stable_rank": float(energy.sum() / energy.max()),
        f"head/{name}/participation_ratio": float(energy.sum() ** 2 / (energy**2).sum()),
    }


@pytest.fixture(scope="module")
def make_module_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_run` for runs that several tests of a module read and none changes."""
    parent = tmp_path_factory.mktemp("runs")
    return lambda name, *args, **kwargs: synthesize(parent / name, *args, **kwargs)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(name, head, hidden_size, ...)` -> folder under one parent."""
    return lambda name, *args, **kwargs: synthesize(tmp_path / "runs" / name, *args, **kwargs)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Six finished runs, three heads at two widths; tests read them and change nothing."""
    parent = tmp_path_factory.mktemp("study")
    return [
        load_run(synthesize(parent / f"{head.partition('(')[0].lower()}-{size}", head, size))
        for size in (32, 128)
        for head in HEADS
    ]
