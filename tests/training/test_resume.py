"""A run that was killed and resumed is the run that was not, bit for bit.

Real processes, killed by SIGKILL: at random steps, and inside a save, an evaluation and a recording, where
a hook loaded by the interpreter itself pulls the trigger.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from rankbound import load_run
from rankbound.runs import is_volatile

pytestmark = pytest.mark.slow

# Loaded by Python at start-up from PYTHONPATH: kills the process inside a function's n-th call.
KILLER = """
import os, signal, sys
target, wanted = os.environ["KILL_IN"].rsplit(":", 1)
module_name, function_name = target.rsplit(".", 1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != module_name:
            return None
        sys.meta_path.remove(self)
        import importlib.util
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            original, calls = getattr(module, function_name), []
            def killer(*args, **kwargs):
                calls.append(1)
                if len(calls) == int(wanted):
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)
            setattr(module, function_name, killer)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def kill_inside(folder: Path, place: str, call: int) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(KILLER)
    return {"KILL_IN": f"{place}:{call}", "PYTHONPATH": str(folder)}


def state(run_dir: Path):
    checkpoint = torch.load(run_dir / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], checkpoint["optimizer_states"], checkpoint["lr_schedulers"]


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_run(resumed: Path, whole: Path):
    assert_same(state(resumed), state(whole))
    assert (resumed / "spectra.jsonl").read_bytes() == (whole / "spectra.jsonl").read_bytes()
    rows = [load_run(run).metrics for run in (resumed, whole)]
    rows = [r[~r["name"].map(is_volatile)].reset_index(drop=True) for r in rows]
    assert not rows[0].duplicated(["step", "name"]).any()
    assert rows[0].equals(rows[1])
    assert (resumed / "summary.json").exists()


def run_with_kill(rankbound, args, run_dir, environment=None, after_step=None) -> None:
    """Start, be killed, and start again until the run is finished."""
    process = rankbound.start("fit", *args, "--run_dir", run_dir, **(environment or {}))
    if after_step is not None:
        wait_for_step(run_dir, after_step, process)
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    resume = ["--ckpt_path", "last"] if (run_dir / "last.ckpt").exists() else []
    if not resume:  # killed before the first checkpoint: nothing to resume
        for file in run_dir.iterdir():
            file.unlink()
    rankbound("fit", *args, "--run_dir", run_dir, *resume)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a row of `step` or later is written, or the run is over."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run_dir / "metrics.csv").exists():
            rows = (run_dir / "metrics.csv").read_text().splitlines()[1:]
            if any(row.partition(",")[0].isdigit() and int(row.partition(",")[0]) >= step for row in rows):
                return
        time.sleep(0.002)


@pytest.fixture
def whole(rankbound, small, tmp_path):
    rankbound("fit", *small, "--run_dir", tmp_path / "whole")
    return tmp_path / "whole"


PLACES = {
    "saving": ("rankbound.training.checkpoint_io._sync", 3),
    "after a save": ("rankbound.training.checkpoint_io._sync_folder", 3),
    "evaluating": ("rankbound.training.evaluate.evaluate", 3),
    "recording": ("rankbound.training.measurements.head.singular_values", 6),
}


def test_killed_inside_a_save_an_evaluation_or_a_recording(rankbound, small, whole, tmp_path):
    for name, (place, call) in PLACES.items():
        run_dir = tmp_path / name.replace(" ", "-")
        run_with_kill(rankbound, small, run_dir, kill_inside(tmp_path, place, call))
        assert_same_run(run_dir, whole)


def test_killed_at_a_random_moment(rankbound, small, whole, tmp_path):
    seed = int.from_bytes(os.urandom(2))
    print(f"seed {seed}")
    run_with_kill(rankbound, small, tmp_path / "killed", after_step=random.Random(seed).randint(5, 20))
    assert_same_run(tmp_path / "killed", whole)


def test_killed_with_two_processes_mixture_and_accumulation(rankbound, small, tmp_path):
    args = [
        *(*small, "--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"),
        *("--data.micro_batch_size", 1, "--model.head", "MixtureOfSoftmaxes", "--data.num_workers", 1),
    ]
    rankbound("fit", *args, "--run_dir", tmp_path / "whole")
    run_with_kill(rankbound, args, tmp_path / "killed", after_step=14)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_killed_between_two_refreshes_of_what_a_head_teaches_through(rankbound, small, tmp_path):
    args = [*small, "--model.head", "BackwardFactorized", "--model.head.rank", 4, "--model.head.refresh", 3]
    rankbound("fit", *args, "--run_dir", tmp_path / "whole")
    run_with_kill(rankbound, args, tmp_path / "killed", after_step=10)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_killed_while_compiled_in_bfloat16(rankbound, small, tmp_path):
    args = [*small, "--model.compile", "always", "--trainer.precision", "bf16-mixed"]
    rankbound("fit", *args, "--run_dir", tmp_path / "whole")
    run_with_kill(rankbound, args, tmp_path / "killed", after_step=11)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_interrupted_saves_exits_and_says_how_to_resume(rankbound, small, whole, tmp_path):
    for number in (signal.SIGTERM, signal.SIGINT):
        run_dir = tmp_path / number.name
        process = rankbound.start("fit", *small, "--run_dir", run_dir)
        wait_for_step(run_dir, 5, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 128 + number, err
        assert f"Stopped by {number.name}" in err
        assert f"--config {run_dir}/config.yaml --run_dir {run_dir} --ckpt_path last" in err
        command = f"--config {run_dir}/config.yaml --run_dir {run_dir} --ckpt_path last".split()
        rankbound("fit", *command)
        assert_same_run(run_dir, whole)


def test_one_process_of_two_is_asked_to_stop_and_both_save(rankbound, small, tmp_path):
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    rankbound("fit", *small, *two, "--run_dir", tmp_path / "whole")
    run_dir = tmp_path / "stopped"
    process = rankbound.start("fit", *small, *two, "--run_dir", run_dir)
    wait_for_step(run_dir, 5, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Stopped by SIGTERM after step" in err
    rankbound("fit", "--config", run_dir / "config.yaml", "--run_dir", run_dir, "--ckpt_path", "last")
    assert_same_run(run_dir, tmp_path / "whole")
