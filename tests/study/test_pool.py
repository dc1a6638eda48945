"""Slots, and what becomes of runs that fail, are killed, or wait for their turn."""

import fcntl
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rankbound.runs import load_run
from rankbound.study.pool import Job, Slots, call, log_tail, run_all, threads, was_killed, why
from rankbound.study.worker import is_running


def job(name, devices=1):
    return Job(Path("x") / name, 1, (), devices)


def test_each_run_sees_its_own_gpus():
    slots = Slots(workers=4, gpus=("0", "1"), runs_per_gpu=2)
    seen = [slots.take(job(name)) for name in "abcde"]
    assert [s and s["CUDA_VISIBLE_DEVICES"] for s in seen] == ["0", "1", "0", "1", None]
    slots.free(job("b"))
    assert slots.take(job("e")) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_a_run_of_two_devices_takes_two_gpus():
    slots = Slots(workers=3, gpus=("4", "5", "6"))
    assert slots.take(job("a")) == {"CUDA_VISIBLE_DEVICES": "4"}
    assert slots.take(job("b", 2)) == {"CUDA_VISIBLE_DEVICES": "5,6"}
    assert slots.take(job("c")) is None


def test_without_gpus_processes_are_counted_and_the_largest_run_is_not_starved():
    slots = Slots(workers=2)
    assert slots.take(job("a")) == {}
    assert slots.take(job("b", 2)) is None
    slots.free(job("a"))
    assert slots.take(job("b", 2)) == {}
    assert slots.take(job("c")) is None
    slots.free(job("b", 2))
    assert slots.take(job("d", 9)) == {}  # more than there are: all of them
    assert slots.take(job("e")) is None


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads(Slots(workers=3))["OMP_NUM_THREADS"] == "2"
    assert threads(Slots(workers=99))["OMP_NUM_THREADS"] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked from a server")
def test_a_server_that_is_killed_is_replaced():
    first = call(os.getppid, (), {})
    os.kill(first, signal.SIGKILL)
    second = call(os.getppid, (), {})
    assert first != second


def test_exit_statuses_in_words():
    assert [was_killed(code) for code in (0, 1, 2, -9, -11, 143, 130, 255)] == [False] * 3 + [True] * 5
    assert "out of memory" in why(-signal.SIGKILL)
    assert why(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert why(2) == "failed with exit status 2"


def printing_to(log: Path) -> int:
    """The process whose standard output a file is."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # none of ours, or gone meanwhile
            if process.name.isdigit() and (process / "fd/1").readlink() == log:
                return int(process.name)
    raise AssertionError(f"nobody prints to {log}")


@pytest.mark.slow
def test_failing_stops_nothing_and_killed_is_started_again(tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = (
        *(f"--data.corpus={corpus}", "--data.window=16", "--data.batch_size=4", "--data.valid_windows=8"),
        *("--model.hidden_size=8", "--model.num_attention_heads=2", "--model.num_hidden_layers=1"),
        *("--model.compile=never", "--recorder.measurements=[]", "--train_log.every=5"),
    )
    bad = Job(tmp_path / "bad", 30, (*told, "--model.hidden_size=9"))
    long = Job(tmp_path / "long", 2000, (*told, "--model.total_steps=2000", "--checkpoints.every=20"))
    held = Job(tmp_path / "held", 30, (*told, "--model.total_steps=30"))
    later = Job(tmp_path / "later", 30, (*told, "--model.total_steps=30"))
    turn = held.log.open("w")  # as if a run of a pool that is gone still wrote
    fcntl.flock(turn, fcntl.LOCK_EX)
    before = signal.getsignal(signal.SIGTERM)

    def kill_once():
        try:
            while not (long.run_dir / "last.ckpt").exists():
                time.sleep(0.02)
            assert is_running(long.run_dir)
            os.kill(printing_to(long.log), signal.SIGKILL)
        finally:
            turn.close()

    killer = threading.Thread(target=kill_once)
    killer.start()
    failed = run_all([bad, long, held], 3, more=lambda over: [later] if over == [bad] else [])
    killer.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert failed == [bad]
    assert "9 is not divisible by num_attention_heads 2" in log_tail(bad, 1)
    assert (tmp_path / "bad.failed").read_text() == "failed with exit status 2\n"
    assert "killed by SIGKILL" in capsys.readouterr().err
    for run in (long, held, later):
        assert load_run(run.run_dir).summary["step"] == run.total_steps
        assert not is_running(run.run_dir)
    assert len(load_run(long.run_dir).environment["before"]) == 1
