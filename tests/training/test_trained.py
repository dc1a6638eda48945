"""A run's model, loaded again: it must score what the run itself scored."""

import shutil

import pytest
import torch

from rankbound import InputError, load_run
from rankbound.corpora import Corpus
from rankbound.training.trained import trained_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(rankbound, small, run_dir):
    if not run_dir.exists():
        head = (
            "--model.head",
            "MixtureOfSoftmaxes",
            "--model.head.components",
            3,
            "--model.norm",
            "rmsnorm",
        )
        rankbound("fit", *small, *head, "--run_dir", run_dir)
    return load_run(run_dir)


def test_it_scores_what_the_run_scored(run, corpus):
    ids = torch.from_numpy(Corpus(corpus).tokens("valid").astype("int64"))
    model = trained_model(run)
    windows = ids[: 12 * 16 + 1]
    tokens, targets = windows[:-1].view(12, 16), windows[1:].view(12, 16)
    with torch.no_grad():
        nll = -model(tokens).gather(-1, targets[..., None]).double()
    assert not model.training
    assert nll.mean().item() == pytest.approx(run.summary["valid/loss"], abs=1e-6)


def test_wrong_checkpoints_are_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"there is no .*step=9.ckpt; checkpoints of the run: last.ckpt"):
        trained_model(run, "step=9.ckpt")
    copy = load_run(shutil.copytree(run.path, tmp_path / "cut"))
    (copy.path / "last.ckpt").write_bytes((run.path / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt is damaged"):
        trained_model(copy)
    other = load_run(shutil.copytree(run.path, tmp_path / "other"))
    other.config["model"]["hidden_size"] = 32
    with pytest.raises(InputError, match="does not hold this run's model"):
        trained_model(other)
