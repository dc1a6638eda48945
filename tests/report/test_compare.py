import subprocess
import sys

import pytest

from rankbound import InputError
from rankbound.report.compare import compare


def test_prints_the_table_and_writes_the_report(make_run, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    compare([make_run("a"), make_run("b", "Factorized(rank=16)")], output)
    page = output.read_text()
    printed = capsys.readouterr().out
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert "Factorized" in printed
    assert f"Report: {output}" in printed
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_a_folder_of_runs_stands_for_its_runs_each_once(make_run, tmp_path, monkeypatch):
    first, second = make_run("a"), make_run("b", "Factorized(rank=16)")
    (first.parent / "notes").mkdir()
    seen = []
    monkeypatch.setattr(
        "rankbound.report.compare.render",
        lambda runs, command: seen.append(([run.path for run in runs], command)) or "",
    )
    compare([first.parent, second], tmp_path / "report.html")
    paths, command = seen[0]
    assert paths == [first, second]
    assert command.startswith(f"rankbound compare {first.parent} {second} --output")


def test_bad_input_is_named_and_changes_nothing(make_run, tmp_path):
    output = tmp_path / "report.html"
    output.write_text("mine")
    empty = make_run("empty")
    (empty / "metrics.csv").write_text("step,tokens,name,value\n")
    (empty / "summary.json").unlink()
    cases = [
        ([], "no run to compare"),
        ([tmp_path / "nowhere"], "nowhere is not a run folder"),
        ([tmp_path], "is not a run folder"),
        ([make_run("good"), empty], "empty has no recorded row"),
    ]
    for paths, message in cases:
        with pytest.raises(InputError, match=message):
            compare(paths, output)
    assert output.read_text() == "mine"


def test_output_must_be_a_file(make_run, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        compare([make_run("a")], tmp_path)


def test_a_failure_while_drawing_leaves_the_old_report(make_run, tmp_path, monkeypatch):
    output = tmp_path / "report.html"
    output.write_text("mine")
    monkeypatch.setattr("rankbound.report.page.to_svg", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare([make_run("a")], output)
    assert output.read_text() == "mine"


def test_needs_no_torch():
    code = (
        "import sys, rankbound.report.compare;"
        "heavy = {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
