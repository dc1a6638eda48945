"""The page of token trajectories on planted log-probabilities."""

import re

import numpy as np
import pytest

from rankbound.analysis.trajectories import Measured, Trajectory, trends
from rankbound.errors import InputError
from rankbound.report.trajectories import overlaps, set_curves, shares_table, typical, write_page

STEPS = np.arange(0, 21) * 50


def planted(name, size, seed):
    """100 tokens that stand, 60 that get worse, 40 that get better; ids 1, 2 and 3."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, len(STEPS))[:, None]
    flat, up, down = (np.ones((1, count)) for count in (100, 60, 40))
    shapes = [0 * time - flat, (-1 - 2 * time) * up, (-4 + 2 * time) * down]
    log_prob = np.concatenate(shapes, 1) + rng.normal(scale=0.005, size=(len(STEPS), 200))
    return Trajectory(name, size, STEPS, log_prob.astype(np.float32))


@pytest.fixture
def measured():
    tokens = np.repeat([1, 2, 3], [100, 60, 40])
    runs = [planted("nar<8>", 1000, 0), planted("wide", 9000, 1)]
    texts = {1: " the", 2: "<x>", 3: " cat"}
    return Measured(runs, tokens, texts, "200 planted tokens", ["wide step 1,000"])


def test_planted_tokens_are_where_they_were_planted(measured):
    first = shares_table(measured).drop_duplicates("run").set_index("run")
    for _, row in first.iterrows():
        assert (row["upward"], row["downward"]) == pytest.approx((0.3, 0.2), abs=0.05)
        assert row["stagnated"] > 0.4
    said = typical(measured).set_index(["run", "set"])["tokens"]
    assert said["wide", "upward"].startswith("'<x>' 100%")
    assert said["wide", "downward"].startswith("' cat' 100%")


def test_curves_are_of_the_smallest_runs_sets(measured):
    curves = set_curves(measured)
    chosen = trends(measured.trajectories[0].log_prob, 2) == "upward"
    own = curves[(curves["set"] == "upward") & (curves["run"] == "wide")]
    expected = np.exp(-measured.trajectories[1].log_prob[:, chosen].mean(1))
    np.testing.assert_allclose(own["set_perplexity"], expected, rtol=1e-5)
    assert own["tokens"].iloc[0] == chosen.sum()


def test_the_same_tokens_overlap_more_than_by_chance(measured):
    table = overlaps(measured)
    up = table[table["set"] == "upward"]
    assert (up["share"] > 0.9).all()
    assert (up["by_chance"] < 0.4).all()


def test_the_page_says_what_was_found_and_loads_nothing(measured, tmp_path, capsys):
    output = tmp_path / "deep" / "page.html"
    write_page(measured, "rankbound trajectories a b", output)
    page = output.read_text()
    assert capsys.readouterr().out.count("nar<8>") >= 7
    assert page.count("<svg") == 3
    assert "nar&lt;8&gt;" in page
    assert "nar<8>" not in re.sub(r"(?s)<svg.*?</svg>", "", page)
    assert "wide step 1,000" in page
    assert "rankbound trajectories a b" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    again = tmp_path / "again.html"
    write_page(measured, "rankbound trajectories a b", again)
    assert again.read_bytes() == output.read_bytes()


def test_one_run_has_no_overlap_and_still_a_page(measured, tmp_path):
    alone = Measured(measured.trajectories[:1], measured.tokens, measured.texts, "tokens", [])
    write_page(alone, "command", tmp_path / "page.html")
    assert "Overlap between runs" not in (tmp_path / "page.html").read_text()


def test_too_few_late_checkpoints_are_named(measured, tmp_path):
    own = measured.trajectories[0]
    late = Trajectory("late", 1, np.array([1, 2, 1000]), own.log_prob[:3])
    with pytest.raises(InputError, match="late has too few checkpoints"):
        shares_table(Measured([late], measured.tokens, measured.texts, "tokens", []))
    with pytest.raises(InputError, match="is a folder"):
        write_page(measured, "command", tmp_path)
