"""Changepoints of planted curves, against exhaustive least squares by numpy and against their truth."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from rankbound import InputError
from rankbound.analysis.late_rise import Bounded
from rankbound.analysis.noise import Assumptions, autoregressive
from rankbound.analysis.rank_saturation import lead, rank_saturation
from rankbound.analysis.saturation import saturation
from rankbound.analysis.segments import GAP, segments

STEPS = np.unique(np.geomspace(50, 40_000, 36).round())
X = np.log(STEPS)


def pieces(breaks, slopes, level=1.0):
    y = level + slopes[0] * (X - X[0])
    for at, change in zip(np.log(breaks), np.diff(slopes), strict=True):
        y = y + change * np.maximum(X - at, 0)
    return y


def noisy(mean, seed, size=0.01, seeds=1, correlation=0.3):
    rows = mean + size * autoregressive(seeds, len(mean), correlation, np.random.default_rng(seed))
    return rows[0] if seeds == 1 else rows


def least_squares(y, count):
    best = (np.inf, ())
    for places in combinations(range(GAP - 1, len(X) - GAP + 1), count):
        if any(b - a < GAP for a, b in pairwise(places)):
            continue
        design = np.stack([np.ones_like(X), X, *(np.maximum(X - X[p], 0) for p in places)], axis=1)
        fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        best = min(best, (float(((y - fitted) ** 2).sum()), places), key=lambda b: b[0])
    return best


def test_the_fit_is_no_worse_than_the_best_of_all_records():
    y = noisy(pieces([500, 6000], [-0.3, 0.02, 0.4]), 0)
    found = segments(X, y, Assumptions())
    misfit, places = least_squares(y, 2)
    assert misfit * 0.5 < ((y - found.fitted) ** 2).sum() <= misfit
    np.testing.assert_allclose(found.breaks, X[list(places)], atol=np.diff(X).max())
    last = found.breaks[-1] < X
    assert found.slopes[-1] == pytest.approx(np.polyfit(X[last], found.fitted[last], 1)[0])


def test_breaks_between_records_are_those_of_a_search():
    y = noisy(pieces([3100], [-0.2, 0.3]), 3)

    def misfit(at):
        design = np.stack([np.ones_like(X), X, np.maximum(X - at, 0)], axis=1)
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    fine = np.linspace(np.log(1500), np.log(6000), 4001)
    best = fine[np.argmin([misfit(at) for at in fine])]
    assert segments(X, y, Assumptions()).breaks == pytest.approx([best], abs=2e-3)


def test_flattens_then_spikes_is_found_where_it_was_planted():
    found = rank_saturation(STEPS, noisy(pieces([700, 8000], [-0.3, 0.0, 0.4]), 1, seeds=3))
    assert found.shape == "falls, then rises"
    assert found.turned == 3
    assert found.turn.lower < 8000 < found.turn.upper
    assert "3 of 3 seeds" in found.sentence
    for own in found.by_seed:
        assert own.slopes[0].lower < -0.3 < own.slopes[0].upper or own.slopes[0].value == pytest.approx(
            -0.3, abs=0.02
        )


@pytest.mark.parametrize(
    ("breaks", "slopes", "shape"),
    [
        ([3000], [0.0, 0.4], "flat, then rises"),
        ([3000], [0.1, 0.6], "rises, then faster"),
        ([3000], [-0.5, -0.1], "bends"),
        ([], [0.2], "straight"),
    ],
)
def test_other_shapes(breaks, slopes, shape):
    found = [
        rank_saturation(STEPS, noisy(pieces(breaks, slopes), seed), draws=150).shape for seed in range(3)
    ]
    assert found.count(shape) >= 2


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_a_line_seldom_breaks(correlation):
    broken = sum(
        len(segments(X, noisy(0.1 * X, seed, correlation=correlation), Assumptions(), draws=60).breaks) > 0
        for seed in range(60)
    )
    assert broken <= 9  # of 5 %, with a binomial tail of 1e-3


def test_a_smooth_decay_does_not_turn():
    smooth = np.exp(-STEPS / 3000) + 1e-4 * np.random.default_rng(0).standard_normal(len(X))
    assert rank_saturation(STEPS, smooth).turn is None


def test_a_curve_without_noise_breaks_where_it_does_and_no_more():
    found = rank_saturation(STEPS, pieces([STEPS[20]], [-0.2, 0.3]))
    assert [point.value for point in found.by_seed[0].changepoints] == pytest.approx([STEPS[20]])
    assert len(rank_saturation(STEPS, np.full(len(STEPS), 2.0)).by_seed[0].changepoints) == 0


def test_intervals_of_one_run_cover():
    truth, held = 5000.0, 0
    for seed in range(16):
        turn = rank_saturation(STEPS, noisy(pieces([truth], [-0.2, 0.3]), seed, size=0.05), draws=150).turn
        held += turn is not None and turn.lower <= truth <= turn.upper
    assert held >= 11  # of 90 %, with a binomial tail of 1e-2


def test_under_twenty_records_nothing_is_said():
    found = rank_saturation(np.arange(20), np.arange(20.0))  # step 0 does not count
    assert found.shape == "not resolved"
    assert found.turn is None
    assert "19 records are under 20" in str(found)


def test_bad_records_are_named():
    with pytest.raises(InputError, match="NaN"):
        rank_saturation(STEPS, np.full(len(STEPS), np.nan))
    with pytest.raises(InputError, match="follows"):
        rank_saturation(STEPS[::-1], np.ones(len(STEPS)))


def loss_rising_at(step, seeds):
    steps = np.arange(1000, 40_001, 1000)
    mean = 4 + np.maximum(step - steps, 0) / 20_000 + np.maximum(steps - step, 0) / 20_000
    noise = 0.01 * np.random.default_rng(8).standard_normal((seeds, len(steps)))
    return saturation(steps, mean + noise, start=1000)


@pytest.mark.parametrize(("turn", "verdict"), [(4000, "leads"), (35_000, "lags")])
@pytest.mark.parametrize("seeds", [1, 3])
def test_lead_and_lag_against_a_loss_that_rises_from_twenty_thousand(turn, verdict, seeds):
    steps = np.arange(1000, 40_001, 1000)
    y = np.abs(np.log(steps / turn)) + 0.01 * np.random.default_rng(9).standard_normal((seeds, len(steps)))
    found = lead(rank_saturation(steps, y), loss_rising_at(20_000, seeds))
    assert found.verdict == verdict
    assert found.steps.lower < 20_000 - turn < found.steps.upper
    assert found.seeds == seeds


def test_lead_over_seeds_is_paired():
    steps = np.arange(1000, 40_001, 1000)
    rank = rank_saturation(steps, np.abs(np.log(steps / np.array([[4000], [6000], [8000]]))))
    loss = loss_rising_at(20_000, 3)
    ahead = np.array(loss.late.onsets) - [own.turn.value for own in rank.by_seed]
    assert lead(rank, loss).steps.value == pytest.approx(ahead.mean())


def test_nothing_to_compare_where_the_loss_does_not_rise():
    steps = np.arange(1000, 40_001, 1000)
    rank = rank_saturation(STEPS, noisy(pieces([5000], [-0.2, 0.3]), 0))
    falling = saturation(
        steps, 4 - np.log(steps) + 0.01 * np.random.default_rng(0).standard_normal(len(steps))
    )
    found = lead(rank, falling)
    assert found.verdict == "nothing to compare"
    assert found.steps is None
    assert isinstance(rank.turn, Bounded)
