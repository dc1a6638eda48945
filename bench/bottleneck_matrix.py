"""Measurements of trained runs from their last checkpoints, and what theory says of the rank.

The recorder computes the head in float64, but on states that the body left in float32, and a linear head's
values from matrices of the width's size, where what lies beyond the bound is zero by construction. A gap is
shown only by the matrix itself, every log-probability of it, from a model that is in float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10, sqrt
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from bottleneck_language import retention
from rankbound.corpora.data import TokenData
from rankbound.metrics import log_prob_spectrum, log_prob_summary
from rankbound.metrics.retention import Retained
from rankbound.runs import LAST_CHECKPOINT, Run
from rankbound.training.language_model import LanguageModel
from rankbound.training.module import Pretraining
from rankbound.training.observed import ObservedRun

MATRICES = {"raw": False, "centred": True}  # the recorder's names, and whether double-centred


def theory(width: int, norm: str, centred: bool) -> int:
    """Rank of log P of a linear head without bias behind a norm, raw or double-centred.

    LayerNorm's states lie in width - 1 dimensions, to which its shift adds a constant; RMSNorm's fill all.
    The normalisers' column adds one. Double-centring takes that away, and the constant with it.
    """
    states = width - (norm != "rmsnorm")
    return states if centred else states + (norm == "layernorm") + 1


def recorded(run: Run, measurement: str) -> dict[str, Any]:
    """The settings of one of the recorder's measurements."""
    (settings,) = (
        m["init_args"]
        for m in run.config["recorder"]["measurements"]
        if m["class_path"].rpartition(".")[2] == measurement
    )
    return dict(settings)


def trained(run: Run) -> LanguageModel:
    """The model of a run's last checkpoint, in plain PyTorch."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Pretraining, "model")
    settings = parser.parse_object({"model": run.config["model"]})
    module: Pretraining = parser.instantiate_classes(settings).model
    saved = torch.load(run.path / LAST_CHECKPOINT, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    return module.model.eval()


def observed(run: Run, dtype: torch.dtype = torch.float32) -> ObservedRun:
    """The trained model on the recorder's probe set."""
    data, recorder = run.config["data"], run.config["recorder"]
    probe = TokenData(data["corpus"], data["window"]).probe(
        recorder["probe_windows"], recorder["probe_seed"]
    )
    model, first = trained(run).to(dtype), recorder["first_position"]
    return ObservedRun(run.summary["step"], model, *probe, run.path, first_position=first)


@dataclass(frozen=True)
class LogProb:
    """Singular values of a run's explicit matrix, and those that its recorder wrote."""

    values: Tensor
    recorded: Tensor
    bound: int | None  # that the head declares, whatever norm it stands behind
    theory: int  # the rank of a linear head of this width behind this norm
    summary: dict[str, float]
    rms: float  # nats, of what the best matrix of width + 1 (centred: width) leaves

    def around(self) -> tuple[float, float]:
        """The values at theory's rank and after it, over the largest."""
        at, after = (self.values[self.theory - 1 : self.theory + 1] / self.values[0]).tolist()
        return at, after

    @property
    def decades(self) -> float:
        """How far the value at theory's rank stands above the next."""
        at, after = self.around()
        return log10(at / after)

    @property
    def recorded_after(self) -> float | None:
        """The recorder's value after theory's rank, over the largest; None where it looked for none."""
        if len(self.recorded) == self.theory:
            return None
        return float(self.recorded[self.theory] / self.recorded[0])


@torch.no_grad()
def log_probs(run: Run) -> dict[str, LogProb]:
    """Of log P (N, V) at the contexts that the recorder measured, the whole model in float64."""
    model, settings = run.config["model"], recorded(run, "LogProbSpectrum")
    seen = observed(run, torch.float64)
    log_prob_NV = seen.log_prob(seen.head_input[seen.contexts(settings["contexts"], settings["seed"])])
    found = {}
    for name, centred in MATRICES.items():
        values = log_prob_spectrum(log_prob_NV, centred)
        written = run.spectra[run.spectra["matrix"] == f"log_prob/{name}"]["values"].iloc[-1]
        summary = log_prob_summary(values, model["hidden_size"] + (not centred))
        found[name] = LogProb(
            values,
            torch.tensor(written, dtype=torch.float64),
            run.config["derived"]["rank_bound"],
            theory(model["hidden_size"], model["norm"], centred),
            summary,
            sqrt(summary["energy_beyond"] / log_prob_NV.numel()),
        )
    return found


def final_retention(run: Run) -> Retained:
    """What the recorder's `Retention` measured at the last step, by row."""
    settings, seen = recorded(run, "Retention"), observed(run)
    state_ND, target_N = seen.sample(settings["tokens"], settings["seed"])
    head = seen.model.head.double().requires_grad_(False)
    return retention(head, state_ND.double(), target=target_N)
