"""A study killed at random moments and started again is the one that was left alone."""

import random
import sys
from pathlib import Path

import pytest

from rankbound.studies import load_study

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
kills = pytest.importorskip("study_kills")


@pytest.mark.slow
def test_killed_and_started_again_every_run_is_done_once_and_the_tables_are_the_same(
    tmp_path, corpus, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    axes = {name: kills.AXES[name][:2] for name in ("model.hidden_size", "model.head")}
    file = kills.write_study(tmp_path / "kills.yaml", corpus, axes, [1, 2])
    assert kills.run_study(file, tmp_path / "whole").wait() == 0
    told = kills.run_with_kills(file, tmp_path / "killed", 3, random.Random(seed))
    print(told)
    whole, killed = (load_study(tmp_path / name / "kills") for name in ("whole", "killed"))
    assert list(killed.results["state"]) == ["finished"] * 8
    assert kills.done_twice(killed) == []
    assert kills.differences(whole, killed) == []
