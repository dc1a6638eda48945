"""The command: what it says on wrong input, and a whole study with a failing cell and a later axis."""

import fcntl

import pytest
import yaml

from rankbound.cli import main
from rankbound.errors import InputError
from rankbound.studies import load_study
from rankbound.study import command
from rankbound.study.command import gpu_names, planner_of

WRONG = [
    ("study walk x.yaml", "study does run, status, report, not 'walk'"),
    ("study ru x.yaml", "did you mean run?"),
    ("study run", "required: file"),
    ("study run nowhere.yaml", "nowhere.yaml"),
    ("study run s.yaml --workers 0", "workers is 0"),
    ("study run s.yaml --worker 2", "no setting worker; did you mean workers?"),
    ("study run s.yaml --gpus 0,0", "name each once"),
    ("study status s.yaml", "not a study folder"),
    ("study report s.yaml", "not a study folder"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_input_is_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("axes: {model.hidden_size: [8]}\n")
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    err = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert len(err.splitlines()) == 1, err
    assert message in err


def test_a_study_that_another_pool_runs_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("axes: {model.hidden_size: [8]}\n")
    (tmp_path / "checkpoints/s").mkdir(parents=True)
    with (tmp_path / "checkpoints/s/study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            main(["study", "run", "s.yaml"])
    assert "another `rankbound study run` is at work" in capsys.readouterr().err


def test_gpus_by_name(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")
    assert gpu_names("auto") == ("2", "GPU-ab")
    assert gpu_names("none") == ()
    assert gpu_names("0,3") == ("0", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu_names("auto") == ()
    with pytest.raises(InputError):
        gpu_names("0,,1")


def test_an_edit_while_runs_are_planned_is_said(corpus, tmp_path, monkeypatch, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(
        f"base: {{data: {{corpus: {corpus}}}, model.num_attention_heads: 1}}\ntokens: 640\n"
        "axes: {model.hidden_size: [8]}\n"
    )

    def planned_meanwhile(*arguments):
        planner = planner_of(*arguments)
        with file.open("a") as added:
            added.write("seeds: [1, 2]\n")
        return planner

    monkeypatch.setattr(command, "planner_of", planned_meanwhile)
    monkeypatch.setattr(command, "run_all", lambda *_: [])
    command.run(file, tmp_path / "out", gpus="none")
    assert "s.yaml was edited meanwhile; start it again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_with_rates_a_bad_level_and_an_axis_added_later(rankbound, corpus, tmp_path):
    study = {
        "base": {
            "data": {"corpus": str(corpus), "window": 16, "batch_size": 4, "valid_windows": 8},
            "model": {"num_hidden_layers": 1, "num_attention_heads": 2, "compile": "never"},
            "recorder": {"measurements": []},
        },
        "tokens": 640,
        "axes": {"model.hidden_size": [8, 9]},
        "seeds": [1],
        "rates": {"grid": [0.001, 0.004], "extend": 1, "factor": 4},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    run = ("study", "run", "s.yaml", "--output", "out", "--gpus", "none")
    out = rankbound(*run)
    assert "1 cells, 2 runs, then those at each cell's best learning rate" in out
    first = load_study(tmp_path / "out/s")
    assert any("9 is not divisible" in remark for remark in first.plan.remarks)
    tried = first.rates.set_index("learning_rate")["valid/loss"]
    assert len(tried) == 3
    assert first.results["learning_rate"].tolist() == [tried.idxmin()]
    assert "valid/loss" in first.results
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/s").glob("*/summary.json")}
    study["axes"]["model.dropout"] = [0, 0.1]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    assert "nothing left to run" in rankbound("study", "status", "s.yaml", "--output", "out")
    rankbound(*run)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    later = load_study(tmp_path / "out/s")
    assert len(later.results) == 2
    assert later.axes == ["model.hidden_size", "model.dropout"]
    assert set(first.results["run"]) < set(later.results["run"])
