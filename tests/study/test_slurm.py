"""Options as sbatch calls them; jobs through submitit's own local executor."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from rankbound.errors import InputError
from rankbound.runs import load_run
from rankbound.study.pool import Job
from rankbound.study.slurm import Submitter, parsed, run_on_slurm

submitit = pytest.importorskip("submitit")


@pytest.mark.parametrize(
    ("time_", "minutes"),
    [("90", 90), ("90:30", 91), ("4:00:00", 240), ("0:00:10", 1), ("1-0", 1440), ("1-2:30", 1590)],
)
def test_times_are_slurms(time_, minutes):
    assert parsed(f"time={time_}") == {"timeout_min": minutes}


def test_options():
    assert parsed("partition=gpu, cpus_per_task=4,gres=gpu:1,cluster=local") == {
        "slurm_partition": "gpu",
        "cpus_per_task": 4,
        "slurm_gres": "gpu:1",
        "cluster": "local",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("partiton=gpu", "did you mean partition?"),
        ("partition", "'partition' is no name=value"),
        ("time=soon", "time is 'soon'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError) as wrong:
        parsed(options)
    assert message in str(wrong.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'rankbound\[slurm\]'"):
        parsed("partition=gpu")


def test_an_array_asks_for_the_devices_of_its_runs(tmp_path, monkeypatch):
    """What is handed to sbatch, read from the script that submitit writes."""
    from submitit.slurm.slurm import SlurmExecutor

    scripts = []

    def sbatch(self, script):
        scripts.append(script.read_text())
        return ["echo", "Submitted batch job 7"]

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    monkeypatch.setattr(SlurmExecutor, "_make_submission_command", sbatch)
    monkeypatch.setattr("shutil.which", lambda name: name)
    jobs = [Job(tmp_path / f"r{i}", 3, (), devices=2 if i == 2 else 1) for i in range(3)]
    settings = parsed("partition=long,time=2:00:00,cpus_per_task=3,gpus_per_node=1")
    Submitter(tmp_path, settings, workers=1)(jobs)
    one, two = scripts
    assert "#SBATCH --array=0-1%1" in one
    for line in ("--partition=long", "--time=120", "--cpus-per-task=3", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in one
    assert "--array" not in two
    assert "#SBATCH --cpus-per-task=6\n" in two
    assert "#SBATCH --gpus-per-node=2\n" in two
    assert "#SBATCH --open-mode=append" in one  # requeued jobs go on in the same log


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_and_one_that_fails_stops_nothing(tmp_path, corpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = [
        *(f"--data.corpus={corpus}", "--data.window=16", "--data.batch_size=4", "--data.valid_windows=8"),
        *("--model.hidden_size=8", "--model.num_attention_heads=2", "--model.num_hidden_layers=1"),
        *("--model.compile=never", "--recorder.measurements=[]", "--checkpoints.every=1000"),
    ]
    steps = 1200
    jobs = [
        Job(tmp_path / "long", steps, (*told, f"--model.total_steps={steps}")),
        Job(tmp_path / "bad", 5, (*told, "--model.total_steps=5", "--model.optimizer.learning_rate=-1")),
    ]
    wait = Submitter.wait

    def interrupting(self, handles):
        handle = handles.get(jobs[0])
        metrics = tmp_path / "long" / "metrics.csv"
        while handle and not (metrics.is_file() and len(metrics.read_text()) > 500):
            time.sleep(0.05)
        if handle:  # as SLURM does: the signal goes to the job's own process
            controller = handle._process.pid
            job = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0]
            os.kill(int(job), signal.SIGUSR2)
        return wait(self, handles)

    monkeypatch.setattr(Submitter, "wait", interrupting)
    failed = run_on_slurm(jobs, tmp_path, "cluster=local,time=30", None, 0, lambda failed: [])
    assert [job.name for job in failed] == ["bad"]
    assert "exit status 2" in (tmp_path / "bad.failed").read_text()
    assert "learning_rate is -1.0" in (tmp_path / "bad.log").read_text()
    run = load_run(tmp_path / "long")
    assert run.summary["step"] == steps
    assert "Stopped by SIGTERM" in (tmp_path / "long.log").read_text()
    assert len(run.environment["before"]) == 1
    assert not run.metrics.duplicated(["step", "name"]).any()
