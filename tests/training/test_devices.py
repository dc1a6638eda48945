"""The same global batch on any number of processes and micro batches gives the same run."""

import shutil

import pytest

from rankbound import load_run
from rankbound.runs import is_volatile

pytestmark = pytest.mark.slow


def rows(run_dir):
    metrics = load_run(run_dir).metrics
    metrics = metrics[~metrics["name"].map(is_volatile)]
    return metrics.set_index(["step", "name"])["value"]


def test_resuming_with_other_micro_batches_goes_on_with_the_same_batches(rankbound, small, tmp_path):
    args = [*small, "--model.dropout", 0, "--checkpoints.keep_recorded", "true"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    rankbound("fit", *args, "--run_dir", whole)
    shutil.copytree(whole, resumed)
    rankbound("fit", *args, "--data.micro_batch_size", 1, "--ckpt_path", resumed / "step=5.ckpt")
    found, expected = rows(resumed), rows(whole)
    assert list(found.index) == list(expected.index)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_two_processes_and_micro_batches_record_what_one_process_does(rankbound, small, tmp_path):
    args = [*small, "--model.dropout", 0]  # masks differ by process, as they should
    rankbound("fit", *args, "--run_dir", tmp_path / "one")
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    rankbound("fit", *args, *two, "--run_dir", tmp_path / "two")
    rankbound("fit", *args, "--data.micro_batch_size", 1, "--run_dir", tmp_path / "micro")
    one = rows(tmp_path / "one")
    for other in ("two", "micro"):
        found = rows(tmp_path / other)
        assert list(found.index) == list(one.index)
        for key, value in one.items():
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (other, key)
    spectra = [load_run(tmp_path / run).spectra for run in ("one", "two")]
    for a, b in zip(spectra[0]["values"], spectra[1]["values"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6 * b[0])
