"""Training on a language: the run says what is known, resumes exactly, and does not depend on devices."""

import shutil

import pytest
import torch

from rankbound import load_run
from rankbound.corpora.data import TokenData
from rankbound.corpora.generate import generate
from rankbound.corpora.languages import KnownRank, SpamLang
from rankbound.heads import Factorized, Linear, MixtureOfSoftmaxes, TaughtFactorized
from rankbound.model.norm import norm_layer
from rankbound.report.table import comparison
from rankbound.runs import is_volatile
from rankbound.training.known_answer import floor_class, known_answer, norm_kind
from rankbound.training.module import Pretraining


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    floors = {"floor_ranks": [16], "floor_norm": "layernorm", "floor_cache": folder / "floors"}
    return generate(KnownRank(48, 12), folder / "known-rank", valid_tokens=4000, **floors)


@pytest.fixture
def arguments(language, small):
    place = small.index("--data.corpus") + 1
    return [*small[:place], language.path, *small[place + 1 :], "--model.dropout", 0]


def rows(run_dir):
    metrics = load_run(run_dir).metrics
    return metrics[~metrics["name"].map(is_volatile)].set_index(["step", "name"])["value"]


@pytest.fixture
def whole(rankbound, arguments, tmp_path_factory):
    """A run that several tests look at and none changes."""
    run_dir = tmp_path_factory.getbasetemp() / "whole-language-run"
    if not run_dir.exists():
        rankbound("fit", *arguments, "--checkpoints.keep_recorded", "true", "--run_dir", run_dir)
    return run_dir


def test_the_run_says_what_is_known(whole, language):
    run = load_run(whole)
    derived = run.config["derived"]
    assert derived["entropy"] == language.card.entropy
    assert derived["floor"] == language.floor(16, "layernorm", False)["excess"]
    row = comparison([run]).iloc[0]
    assert row["excess_loss"] == run.summary["valid/loss"] - derived["true_loss"]
    assert row["excess_loss"] > row["rank_gap"] == derived["floor"]
    assert "valid/bits_per_byte" not in run.summary


@pytest.mark.slow
def test_resumed_it_goes_on_with_the_same_text(rankbound, whole, tmp_path):
    for name, extra in (("workers", ["--data.num_workers", 1]), ("micro", ["--data.micro_batch_size", 1])):
        resumed = tmp_path / name
        shutil.copytree(whole, resumed)
        config = ["--config", resumed / "config.yaml", "--run_dir", resumed]
        rankbound("fit", *config, *extra, "--ckpt_path", resumed / "step=5.ckpt")
        found, expected = rows(resumed), rows(whole)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)
        if name == "workers":
            assert found.equals(expected)
            states = [torch.load(run / "last.ckpt", weights_only=True) for run in (resumed, whole)]
            ours, theirs = (state["state_dict"] for state in states)
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_two_processes_record_what_one_does(rankbound, whole, arguments, tmp_path):
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    rankbound("fit", *arguments, *two, "--run_dir", tmp_path / "two")
    one, found = rows(whole), rows(tmp_path / "two")
    assert list(found.index) == list(one.index)
    assert found.tolist() == pytest.approx(one.tolist(), rel=1e-5, abs=1e-6)


def test_spam_states_its_coverage(tmp_path):
    generate(SpamLang(64), tmp_path / "spam", valid_tokens=2000)
    module = Pretraining(64, total_steps=30, hidden_size=8, num_hidden_layers=1)
    known = known_answer(module, TokenData(str(tmp_path / "spam"), window=16, batch_size=4))
    assert known == {"entropy": 0.0, "true_loss": 0.0, "coverage": SpamLang(64).coverage(120)}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (Linear(8, 20), (8, "rmsnorm", False)),
        (Linear(8, 20, bias=True), (8, "rmsnorm", True)),
        (Factorized(8, 20, rank=3), (3, "none", False)),
        (Factorized(8, 20, rank=9), (8, "rmsnorm", False)),
        (TaughtFactorized(8, 20, rank=3), (8, "rmsnorm", False)),
        (MixtureOfSoftmaxes(8, 20), None),
    ],
)
def test_the_floor_is_that_of_the_head_that_reads(head, expected):
    assert floor_class(head, "rmsnorm") == expected


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "layernorm_without_shift"])
def test_norms_are_known_again(norm):
    assert norm_kind(norm_layer(norm, 4, 1e-5)) == norm
