"""How far a study is, from made run folders."""

import fcntl

import pytest
from tests.study.conftest import fill

from rankbound.studies import load_study
from rankbound.study.status import last_line, seconds_left, show_status, statuses


@pytest.fixture
def under_way(planned_study):
    """One run finished, one half way and held by a process, one failed, one waiting."""
    folder, runs = planned_study
    fill(folder, runs[0])
    fill(folder, runs[1], until=20)
    log = (folder / f"{runs[1].run}.log").open("w")
    fcntl.flock(log, fcntl.LOCK_EX)
    (folder / f"{runs[2].run}.failed").write_text("failed with exit status 2\n")
    (folder / f"{runs[2].run}.log").write_text("Start\nrankbound: error: training diverged at step 3\n\n")
    yield folder, runs
    log.close()


def test_states_steps_and_time_left(under_way):
    folder, _ = under_way
    found = statuses(load_study(folder))
    assert [run.state for run in found] == ["finished", "running", "failed", "waiting"]
    assert [run.step for run in found] == [40, 20, 0, 0]
    # 8 s a run of width 16, half of one to go; width 8 costs half as much
    assert seconds_left(found) == pytest.approx(4 + 4)


def test_no_time_is_told_before_a_run_has_finished(planned_study):
    folder, runs = planned_study
    fill(folder, runs[0], until=20)
    assert seconds_left(statuses(load_study(folder))) is None


def test_outside_a_terminal_it_is_printed_once(under_way, capsys):
    folder, runs = under_way
    show_status(folder)
    out = capsys.readouterr().out
    assert "made: 1 failed, 1 finished, 1 running, 1 waiting of 4 runs" in out
    assert runs[0].run not in out
    assert runs[1].run in out
    assert "20 / 40" in out
    assert "training diverged at step 3" in " ".join(out.split())


def test_the_last_line_of_a_log(tmp_path):
    assert last_line(tmp_path / "none.log") == "it printed nothing"
    (tmp_path / "long.log").write_text("x" * 20000 + "\nthe end\n\n  \n")
    assert last_line(tmp_path / "long.log") == "the end"
