"""The statistics behind docs/results/heads.md, on losses whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
report = pytest.importorskip("head_study_report")


def losses(noise, seeds_of, rng):
    heads, seeds = {"linear": 4.0, "wide": 3.9, "narrow": 4.2}, {1: 0.3, 2: -0.1, 3: 0.0, 4: 0.5, 5: -0.4}
    return {
        (head, seed): heads[head] + seeds[seed] + noise * rng.normal()
        for head in heads
        for seed in seeds_of[head]
    }


UNBALANCED = {"linear": (1, 2, 3, 4, 5), "wide": (1, 2, 3), "narrow": (1, 2, 3)}


def test_differences_are_within_seeds_however_many_each_head_has():
    fitted = report.fit(losses(0.0, UNBALANCED, np.random.default_rng(0)))
    assert fitted.freedom == 11 - 3 - 4
    assert fitted.noise < 1e-12
    value, *_ = fitted.difference("wide", "linear")
    assert value == pytest.approx(-0.1)


def test_with_two_heads_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    both = losses(0.05, {"linear": (1, 2, 3, 4), "wide": (1, 2, 3, 4), "narrow": ()}, rng)
    a, b = ([both[head, seed] for seed in (1, 2, 3, 4)] for head in ("wide", "linear"))
    value, half, p = report.fit(both).difference("wide", "linear")
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval()
    assert p == pytest.approx(expected.pvalue)
    assert (value - half, value + half) == pytest.approx((interval.low, interval.high))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        value, half, _ = report.fit(losses(0.05, UNBALANCED, rng)).difference("narrow", "linear")
        covered.append(abs(value - 0.2) < half)
    assert 0.91 < np.mean(covered) < 0.985


def test_holm_is_its_definition():
    assert report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert report.holm([0.6, 0.9]) == [1.0, 1.0]


def test_too_few_runs_are_said_to_be_too_few():
    with pytest.raises(SystemExit, match="too few"):
        report.fit({("linear", 1): 4.0, ("wide", 1): 3.9})
