"""docs/: tables are what their commands print, and examples run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rankbound import load_run
from rankbound.cli import main
from rankbound.heads import all_heads
from rankbound.training.measurements import DEFAULT, all_measurements

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "heads.md"


def block(command: str) -> str:
    found = re.search(
        rf"<!-- {re.escape(command)} -->\n(.*?)\n?<!-- end -->", PAGE.read_text(), flags=re.DOTALL
    )
    assert found, f"{PAGE} has no block for {command}"
    return found[1].strip()


def test_the_table_of_heads_is_what_the_command_prints(capsys):
    main(["heads", "--markdown", "true"])
    assert block("rankbound heads --markdown true") == capsys.readouterr().out.strip()


def test_the_measured_scores_are_those_of_the_study():
    scores = block("python bench/head_study.py")
    assert scores in (ROOT / "docs" / "results" / "heads.md").read_text()
    for name in all_heads():
        assert f"`{name}" in scores, f"{name} has no score"


@pytest.fixture
def grown(tmp_path):
    """A copy of the package with the page's example as one more file, and nothing else."""
    shutil.copytree(ROOT / "src" / "rankbound", tmp_path / "src" / "rankbound")
    for name in ("tests/heads", "tests/conftest.py", "pyproject.toml"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^.*\S.*$", code, flags=re.MULTILINE)) < 40
    (tmp_path / "src" / "rankbound" / "heads" / "angular.py").write_text(code)
    return tmp_path


def run(folder: Path, *command: str | Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_head_passes_the_contract_and_trains(grown, corpus):
    tested = run(grown, "pytest", "tests/heads/test_contract.py", "-k", "Angular", "-v")
    assert int(re.search(r"(\d+) passed", tested)[1]) >= 18
    data = ("--data.corpus", corpus, "--data.window", "16", "--data.batch_size", "4")
    body = ("--model.hidden_size", "16", "--model.num_hidden_layers", "1", "--model.total_steps", "8")
    run(grown, "rankbound.cli", "fit", *data, *body, "--model.head", "Angular", "--run_dir", "run")
    listed = run(grown, "rankbound.cli", "compare", "run", "--output", "report.html")
    assert "Angular" in listed


def test_the_examples_of_metrics_run_as_they_stand(tmp_path):
    page = (ROOT / "docs" / "metrics.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "could not be measured" not in done.stderr
    names = load_run(tmp_path / "checkpoints" / "mine").metrics["name"]
    assert {"norm/weight", "hidden/body/anisotropy", "retention/share"} <= set(names)
    assert not names.str.startswith("failed").any()


def test_every_measurement_is_described():
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert listed[: len(DEFAULT)] == list(DEFAULT)
    assert sorted(listed) == list(all_measurements())
