"""Tables against pandas on the files themselves; what cannot be read is named and left out."""

import shutil
import sys

import pandas as pd
import pytest
from tests.study.conftest import fill

from rankbound import InputError
from rankbound.studies import load_study
from rankbound.study.gather import gather, read_curves, state_of


def test_one_row_a_run_with_what_it_came_to(planned_study):
    folder, runs = planned_study
    for run in runs[:3]:
        fill(folder, run)
    fill(folder, runs[3], until=20)
    found = gather(folder)
    study = load_study(folder)
    assert found.states == {"finished": 3, "stopped": 1}
    assert list(study.results["run"]) == [run.run for run in runs]
    assert list(study.results["model.hidden_size"]) == [16, 16, 8, 8]
    assert list(study.results["cell"]) == ["00000016"] * 2 + ["00000008"] * 2
    expected = pd.concat(
        pd.read_csv(folder / run.run / "metrics.csv").assign(run=run.run)[list(study.curves)]
        for run in runs
    )
    pd.testing.assert_frame_equal(study.curves, expected.reset_index(drop=True), check_exact=True)
    for run, row in zip(runs, study.results.to_dict("records"), strict=True):
        valid = study.run(run.run).series("valid/loss")
        assert row["valid/loss"] == valid.iloc[-1]
        assert (row["best/valid/loss"], row["best_step/valid/loss"]) == (valid.min(), valid.idxmin())
        assert row["excess_loss"] == valid.iloc[-1] - 3.0
        assert row["step"] == valid.index[-1]
    assert study.axes == ["model.hidden_size"]


def test_what_has_not_changed_is_not_read_again(planned_study, monkeypatch):
    folder, runs = planned_study
    for run in runs[:3]:
        fill(folder, run)
    gather(folder)
    before = load_study(folder)
    whole = before.results, before.curves
    read = []
    module = sys.modules[gather.__module__]
    monkeypatch.setattr(module, "read_curves", lambda path: read.append(path.name) or read_curves(path))
    fill(folder, runs[3], until=20)
    gather(folder)
    assert read == [runs[3].run]
    after = load_study(folder)
    pd.testing.assert_frame_equal(after.results.iloc[:3], whole[0].iloc[:3])
    pd.testing.assert_frame_equal(after.curves.iloc[: len(whole[1])], whole[1])


def break_config(run_dir):
    (run_dir / "config.yaml").write_text("model: [")


def no_config(run_dir):
    (run_dir / "config.yaml").unlink()


def no_metrics(run_dir):
    (run_dir / "metrics.csv").unlink()


def other_columns(run_dir):
    (run_dir / "metrics.csv").write_text("step,name,value\n1,a,2\n")


def no_number(run_dir):
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("40,x,valid/loss,abc\n")


def broken_summary(run_dir):
    (run_dir / "summary.json").write_text("{")


def broken_environment(run_dir):
    (run_dir / "environment.json").write_text("[]")


def broken_spectra(run_dir):
    (run_dir / "spectra.jsonl").write_text("{\n")


def other_width(run_dir):
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("hidden_size: 16", "hidden_size: 12"))


def other_default(run_dir):
    text = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(text.replace("dropout: 0.0", "dropout: 0.1"))


def a_file(run_dir):
    shutil.rmtree(run_dir)
    run_dir.write_text("")


DAMAGE = {
    break_config: "config.yaml is not YAML",
    no_config: "config.yaml",
    no_metrics: "metrics.csv",
    other_columns: "does not begin with step,tokens,name,value",
    no_number: "metrics.csv: In CSV column #1",
    broken_summary: "summary.json is not JSON",
    broken_environment: "environment.json holds no JSON object",
    broken_spectra: "spectra.jsonl is not JSON",
    other_width: "says model.hidden_size = 12, where this version means 16",
    other_default: "says model.dropout = 0.1, where this version means 0.0",
    a_file: "",
}


@pytest.mark.parametrize("gathered_before", [False, True])
@pytest.mark.parametrize(("damage", "message"), DAMAGE.items(), ids=[d.__name__ for d in DAMAGE])
def test_a_damaged_or_older_run_is_named_and_left_out(planned_study, damage, message, gathered_before):
    folder, runs = planned_study
    for run in runs:
        fill(folder, run)
    if gathered_before:
        assert gather(folder).problems == []
    damage(folder / runs[0].run)
    found = gather(folder)
    assert len(found.problems) == 1
    assert runs[0].run in found.problems[0]
    assert message in found.problems[0]
    results = load_study(folder).results
    assert list(results["state"]) == ["damaged", "finished", "finished", "finished"]
    assert runs[0].run not in set(load_study(folder).curves["run"])


def test_a_broken_last_line_and_a_setting_that_came_later_are_no_damage(planned_study):
    folder, runs = planned_study
    fill(folder, runs[0], until=20)
    with (folder / runs[0].run / "metrics.csv").open("a") as file:
        file.write("30,x,val")
    config = folder / runs[0].run / "config.yaml"
    config.write_text(config.read_text().replace("  dropout: 0.0\n", ""))
    assert gather(folder).problems == []
    assert len(load_study(folder).curves) == 6


def test_runs_of_earlier_versions_are_counted(planned_study):
    folder, runs = planned_study
    shutil.copytree(fill(folder, runs[0]), folder / "Linear-d12-seed1-0123456789")
    assert gather(folder).strangers == 1


def test_states(planned_study):
    folder, runs = planned_study
    paths = [folder / run.run for run in runs]
    fill(folder, runs[0])
    fill(folder, runs[1], until=10)
    (folder / f"{runs[2].run}.failed").write_text("failed with exit status 2\n")
    assert [state_of(path)[0] for path in paths] == ["finished", "stopped", "failed", "waiting"]
    assert state_of(paths[2])[1] == "failed with exit status 2"


def test_a_folder_that_is_none_and_a_plan_of_another_version(planned_study, tmp_path):
    folder, _ = planned_study
    with pytest.raises(InputError, match="is not a study folder"):
        gather(tmp_path)
    with pytest.raises(InputError, match=r"has no results\.parquet yet"):
        _ = load_study(folder).results
    (folder / "plan.json").write_text('{"runs": [{"run": "x"}]}')
    with pytest.raises(InputError, match="of another version"):
        gather(folder)
