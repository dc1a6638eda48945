"""The page and the table of a diagnosis and of a suite, and the verdict's words."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from rankbound import InputError
from rankbound.analysis.diagnosis import Diagnosis
from rankbound.analysis.headroom import Headroom, Point
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.rank_cuts import Cut, RankCuts
from rankbound.report.diagnose import diagnosis_report, render, summary
from rankbound.report.diagnose_suite import suite_report

CUTS = RankCuts(
    loss=2.0,
    cuts=tuple(Cut(r, Estimate(nats, 0.01, 20)) for r, nats in ((1, 2.0), (2, 0.4), (4, 0.11), (8, 0.0))),
    values=(3.0, 2.0, 1.0, 0.5),
    tokens=900,
    documents=30,
    units="30 documents",
)
PROBE = Headroom(
    gain=Estimate(0.012, 0.002, 30),
    adaptation=Estimate(0.03, 0.002, 30),
    power=Estimate(0.8, 0.02, 30),
    planted=Estimate(0.1, 0.01, 30),
    control_rank=4,
    kind="mixture",
    chosen={"mixture": "mixture of size 4"},
    curve=(Point(250, Estimate(0.004, 0.002, 30)), Point(1000, Estimate(0.012, 0.002, 30))),
    trend=Estimate(0.008, 0.001, 30),
    tokens=(1000, 300, 300),
    documents="30 documents",
    parameters=(90, 100),
    loss=2.0,
    seconds=12.0,
    planned_seconds=14.0,
    epochs=3.0,
)
FOUND = Diagnosis(
    name="small <model>",
    head="Linear",
    text="a text",
    vocab_size=50,
    hidden_size=8,
    tokens=1600,
    loss=Estimate(2.0, 0.05, 30),
    figures={
        "head/weight/effective_rank": 5.5,
        "hidden/0/anisotropy": 0.1,
        "hidden/head_input/anisotropy": 0.3,
        "unargmaxable/unargmaxable": 2.0,
        "unargmaxable/undecided": 1.0,
    },
    spectrum=(2.0, 1.0, 0.1),
    cuts=CUTS,
    headroom=PROBE,
    command="rankbound diagnose m",
)


def test_verdict_names_what_is_known():
    verdict = FOUND.verdict()
    assert "At least 0.0120 ± 0.0041 nats per token to gain at 1,000 tokens" in verdict
    assert "probe power 80 ± 4 %" in verdict
    assert "still rising with more text" in verdict
    assert "loses 0.110 ± 0.021 nats when cut to rank 4" in verdict
    assert "knee is at rank 2" in verdict
    assert "2 of its 50 tokens can never be predicted, 1 undecided" in verdict


def test_power_over_a_loss_that_may_be_none_is_not_called_small():
    noisy = replace(FOUND, headroom=replace(PROBE, planted=Estimate(0.1, 0.2, 30)))
    assert "known loss that the probe is tried on, 0.10" in noisy.verdict()
    assert "cannot itself be told from none" in noisy.verdict()
    assert "50%" not in noisy.verdict()
    assert "(cannot tell: control within its noise)" in summary(noisy)["headroom, at least"]


def test_verdict_without_power_or_find():
    weak = replace(PROBE, power=Estimate(0.3, 0.02, 30))
    assert (
        "cannot tell at 1,000 tokens, since the probe won back only 30"
        in replace(FOUND, headroom=weak).verdict()
    )
    none = replace(PROBE, gain=Estimate(0.001, 0.002, 30))
    assert "No gain was found at 1,000 tokens: 0.0010 ± 0.0041" in replace(FOUND, headroom=none).verdict()
    short = Headroom(cannot="40 tokens in 2 documents are too little text to split in three")
    assert "cannot tell, as 40 tokens" in replace(FOUND, headroom=short).verdict()
    lost = replace(PROBE, planted=Estimate(0.01, 0.1, 30))
    assert not lost.told


def test_page_is_whole_and_says_all(tmp_path, capsys):
    output = tmp_path / "new" / "d.html"
    diagnosis_report(FOUND, output, Console(width=100, force_terminal=False))
    page, printed = output.read_text(), capsys.readouterr().out
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert "small &lt;model&gt;" in page
    assert "<model>" not in page
    assert page.count("<svg") == 4
    assert page.count("download=") == 4
    assert not re.search(r'(src|href)="https?:', page)
    assert FOUND.verdict().split(";")[0][:40] in page
    for word in ("effective rank of the head", "0.110", "probe power", "Report:"):
        assert word in printed


def test_page_without_cuts_or_probe():
    bare = replace(FOUND, cuts=None, headroom=None, spectrum=(), figures={}, notes=("No rank to cut.",))
    page = render(bare)
    assert "No rank to cut." in page
    assert "<svg" not in page


def test_json_is_read_back_and_has_no_nan(tmp_path):
    output = tmp_path / "d.json"
    replace(FOUND, loss=Estimate(2.0, math.nan, 0)).write(output)
    read = pd.read_json(output, typ="series")
    assert read["headroom"]["gain"]["mean"] == 0.012
    assert read["loss"]["error"] is None
    assert read["layers"] == ["0", "head_input"]


def suite(copies=True):
    steps = [1, 10, 100, 200]
    frame = pd.DataFrame(
        {
            "revision": [f"step{step}" for step in steps],
            "step": steps,
            "copy_of": ["", "", "", "step100" if copies else ""],
            "loss": [4.0, 3.0, 2.5, 2.5],
            "loss_half_width": 0.1,
            "singular_entropy": [0.1, 0.2, 0.5, 0.5],
            "effective_rank": [8.0, 7.0, 5.0, 5.0],
            "anisotropy": [0.1, 0.3, 0.4, 0.4],
            "retention": [1.0, 1.5, 2.0, 2.0],
            "cka": [0.2, 0.6, 1.0, 1.0],
            "cka/0": [0.9, 0.95, 1.0, 1.0],
            "cka/head_input": [0.2, 0.6, 1.0, 1.0],
        }
    )
    named = "1 of 4 checkpoints hold the weights of another: step200 of step100." if copies else ""
    return SimpleNamespace(
        name="me/suite", text="a text", tokens=900, table=frame, notes=(), command="c", copies=named
    )


def test_suite_page_and_table(tmp_path, capsys):
    output = tmp_path / "s.html"
    suite_report(suite(), output, Console(width=120, force_terminal=False))
    page, printed = output.read_text(), capsys.readouterr().out
    assert page.count("<svg") == 3
    assert "3 different checkpoints" in page
    assert "step200 of step100" in printed
    assert "singular" in printed


def test_output_that_is_a_folder_is_named(tmp_path):
    for report, found in ((diagnosis_report, FOUND), (suite_report, suite())):
        with pytest.raises(InputError, match="is a folder"):
            report(found, tmp_path)
