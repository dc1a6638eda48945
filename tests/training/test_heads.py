"""Every head through the command line: trained, recorded, compared."""

import sys

import pytest

from rankbound import load_run
from rankbound.cli import main
from rankbound.heads import all_heads


def test_every_head_trains_by_its_name_and_compares(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rankbound"])
    monkeypatch.setenv("COLUMNS", "300")
    for name in all_heads():
        settings = [*small, "--model.head", name, "--model.total_steps", 8, "--run_dir", tmp_path / name]
        main(["fit", *map(str, settings)])
    runs = [load_run(tmp_path / name) for name in all_heads()]
    for run in runs:
        losses = run.series("valid/loss")
        assert losses.iloc[-1] < losses.iloc[0], run.path.name
        assert run.summary["status"] == "finished"
        assert set(run.spectra["step"]) >= {0, 1, 8}
    capsys.readouterr()
    main(["compare", *(str(run.path) for run in runs), "--output", str(tmp_path / "report.html")])
    printed = capsys.readouterr().out
    assert all(name in printed for name in all_heads())
    mixture = load_run(tmp_path / "MixtureOfSoftmaxes")
    assert 0 < mixture.series("head/usage_entropy").iloc[-1] < 1.4  # ln 4 = 1.386


@pytest.mark.parametrize("wrong", ["z_loss", "label_smoothing"])
def test_weights_out_of_range_are_one_line_before_anything_is_made(small, tmp_path, rankbound, wrong):
    done = rankbound("fit", *small, f"--model.{wrong}", -1, "--run_dir", tmp_path / "run", status=2)
    assert f"{wrong} is -1" in done
    assert not (tmp_path / "run").exists()
