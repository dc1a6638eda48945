"""Verdicts on planted curves, bounds against their truth, seeds, Holm, phases and bad input."""

import numpy as np
import pytest
from scipy import stats

from rankbound import InputError
from rankbound.analysis.cool_down import cool_down
from rankbound.analysis.late_rise import t_bounds
from rankbound.analysis.learning_curve import FEWEST_POINTS, MOST_POINTS, learning_curve
from rankbound.analysis.noise import autoregressive, flat_null, second_difference_noise
from rankbound.analysis.saturation import ACCURACY, NATS, PERPLEXITY, Assumptions, Scale, holm, saturation

STEPS = np.arange(13_000, 144_000, 10_000)
UNITS = Scale(unit="deviations", material=1.0)


def curves(mean, seed, seeds=1, correlation=0.3):
    noise = autoregressive(seeds, len(mean), correlation, np.random.default_rng(seed))
    return (mean + noise)[0] if seeds == 1 else mean + noise


def falling(fall=10.0, until=None):
    at = STEPS if until is None else np.minimum(STEPS, until)
    power = at**-0.5
    return fall * (power - power[-1]) / (power[0] - power[-1])


def v_shaped(size, fall=10.0):
    return falling(fall, 78_000) + size * np.maximum(STEPS - 78_000, 0) / (STEPS[-1] - 78_000)


@pytest.mark.parametrize(
    ("mean", "material", "verdict"),
    [
        (v_shaped(12), 1.0, "late rise"),
        (falling(10, 78_000), 8.0, "plateau"),
        (falling(200), 1.0, "still improving"),
        (falling(10, 78_000), 0.1, "undecided"),
        (np.zeros(len(STEPS)), 1.0, "no signal"),
    ],
)
def test_planted_curves_are_told(mean, material, verdict):
    scale = Scale(unit="deviations", material=material)
    found = [saturation(STEPS, curves(mean, s), scale, start=13_000, chance=max(mean)) for s in range(10)]
    assert sum(f.verdict == verdict for f in found) >= 8
    told = next(f for f in found if f.verdict == verdict)
    assert told.sentence.startswith(verdict.capitalize())
    assert "correlated 0.3" in str(told)


@pytest.mark.parametrize("mean", [np.zeros(len(STEPS)), falling(), falling(10, 78_000), v_shaped(6)])
def test_bounds_hold_as_often_as_they_say_and_no_rise_is_rarely_one(mean):
    found = [saturation(STEPS, curves(mean, s), UNITS, start=0) for s in range(400)]
    late = np.mean(mean[-4:])
    truth = late - min(np.mean(mean[i : i + 4]) for i in range(7))
    beyond = stats.binom.isf(1e-3, 400, 0.05)
    assert sum(f.late.rise.lower > truth for f in found) <= beyond
    assert sum(f.late.rise.upper < truth for f in found) <= beyond
    if truth <= 0:
        assert sum(f.late.p < 0.05 for f in found) <= beyond
    else:
        assert sum(f.verdict == "late rise" for f in found) > 300
        assert sum(f.late.onset.lower <= 63_000 <= f.late.onset.upper for f in found) >= 400 - beyond


def test_p_and_lower_bound_agree():
    for seed in range(50):
        found = saturation(STEPS, curves(v_shaped(3), seed), UNITS, start=0).late
        assert (found.p < 0.05) == (found.rise.lower > 0)


def test_noise_is_told_under_its_correlation():
    noises = [
        saturation(STEPS, curves(np.zeros(14), s, correlation=0.3), UNITS, start=0).late.noise
        for s in range(400)
    ]
    assert np.sqrt(np.mean(np.square(noises))) == pytest.approx(1.0, abs=0.06)


def test_scales_turn_and_convert():
    loss = curves(0.1 * v_shaped(8), 1) / 10
    as_loss = saturation(STEPS, loss, NATS, start=0)
    as_perplexity = saturation(STEPS, np.exp(loss), PERPLEXITY, start=0)
    as_score = saturation(STEPS, 0.5 - loss, ACCURACY, start=0)
    assert as_perplexity.late.rise.value == pytest.approx(as_loss.late.rise.value)
    assert as_score.late.rise.value == pytest.approx(100 * as_loss.late.rise.value)
    assert as_score.late.p == as_perplexity.late.p == as_loss.late.p


def test_dense_logs_are_averaged_in_equal_blocks():
    steps, values = np.arange(1, 1001), np.random.default_rng(0).standard_normal(1000)
    curve = learning_curve(steps, values)
    kept = steps[steps >= 100]
    size = int(np.ceil(len(kept) / MOST_POINTS))
    blocks = [slice(end - size, end) for end in range(len(kept), size - 1, -size)][::-1]
    expected = [values[steps >= 100][block].mean() for block in blocks]
    np.testing.assert_allclose(curve.values[0], expected)
    np.testing.assert_allclose(curve.log_steps, [np.log(kept[block]).mean() for block in blocks])
    assert MOST_POINTS / 2 < len(expected) <= MOST_POINTS
    assert curve.records == size


def test_log_spaced_steps_find_a_late_rise_and_when_it_began():
    steps = np.geomspace(10, 40_000, 60)
    x = np.log(steps)
    mean = 4 + 0.02 * np.maximum(np.log(2000) - x, 0) + 0.05 * np.maximum(x - np.log(2000), 0)
    found = saturation(steps, mean + 0.003 * np.random.default_rng(2).standard_normal(60), start=10)
    centres = np.exp([x[i : i + 18].mean() for i in range(0, 43, 2)])
    best = centres[np.argmin([mean[i : i + 18].mean() for i in range(0, 43, 2)])]
    assert found.verdict == "late rise"
    assert found.late.onset.lower <= best * 1.001
    assert found.late.onset.upper >= best * 0.999
    assert found.records == 2


def test_step_zero_counts_as_first_record_only():
    steps, values = np.array([0, *STEPS]), np.array([50.0, *curves(falling(), 0)])
    found, without = (
        saturation(steps, values, UNITS, start=0),
        saturation(STEPS, values[1:], UNITS, start=0),
    )
    assert found.late.rise == without.late.rise
    assert found.late.gain - without.late.gain == pytest.approx(50 - values[1])


def test_a_rise_hidden_by_the_cool_down_shows_in_the_stable_phase():
    stable = v_shaped(20)
    cooled = np.arange(153_000, 194_000, 10_000)
    steps = np.concatenate([STEPS, cooled])
    values = np.concatenate([curves(stable, 3), np.linspace(10, -40, len(cooled))])
    assert saturation(steps, values, UNITS, start=0).verdict != "late rise"
    found = saturation(
        steps, values, UNITS, start=0, cool_down_from=143_000, schedule="warm-up, stable, decay"
    )
    assert found.verdict == "late rise"
    assert "Schedule: warm-up, stable, decay, before the cool-down from step 143,000." in found.sentence


def test_a_plateau_needs_a_reference_that_improves_where_one_is_given():
    flat, scale = curves(falling(10, 78_000), 4), Scale(unit="deviations", material=8.0)
    better = curves(falling(600), 5)
    assert saturation(STEPS, flat, scale, start=0, reference=(STEPS, better)).verdict == "plateau"
    beside = saturation(STEPS, flat, scale, start=0, reference=(STEPS, flat))
    assert beside.verdict == "undecided"
    assert "the reference improves by" in beside.sentence
    with pytest.raises(InputError, match="the reference ends at step 103,000"):
        saturation(STEPS, flat, scale, start=0, reference=(STEPS[:10], better[:10]))


def test_a_flat_line_without_noise_neither_rises_nor_signals():
    found = saturation(STEPS, np.full(len(STEPS), 0.1))
    assert found.verdict == "no signal"
    assert found.late.p > 0.05


def test_chance_given_a_score_at_chance_cannot_saturate():
    values = 0.5 - 0.001 * v_shaped(12, fall=0.5) + 0.0001 * np.random.default_rng(0).standard_normal(14)
    assert saturation(STEPS, values, ACCURACY, start=0).late.p < 0.05
    assert saturation(STEPS, values, ACCURACY, start=0, chance=0.9).verdict == "no signal"


def test_seeds_are_a_t_interval_of_each_ones_own_rise():
    values = curves(v_shaped(6), 6, seeds=4)
    found = saturation(STEPS, values, UNITS, start=0).late
    rises = [own[-4:].mean() - min(own[i : i + 4].mean() for i in range(7)) for own in values]
    null = flat_null(np.log(STEPS))
    noise = np.sqrt(np.mean(second_difference_noise(np.log(STEPS), values) ** 2))
    freed = np.array(rises) - null.bias * noise
    test = stats.ttest_1samp(freed, 0, alternative="greater")
    assert found.p == pytest.approx(test.pvalue)
    assert found.rise.value == pytest.approx(np.mean(rises))
    assert found.rise.lower == pytest.approx(test.confidence_interval(0.95).low)
    assert found.onsets == pytest.approx([np.exp(np.log(STEPS)[3:7].mean())] * 4, rel=0.7)


def test_averaged_seeds_are_the_test_of_their_mean():
    values = curves(v_shaped(4), 7, seeds=3)
    averaged = saturation(STEPS, values, UNITS, start=0, seeds="average")
    assert averaged.late == saturation(STEPS, values.mean(axis=0), UNITS, start=0).late
    assert "The mean of 3 seeds is tested" in averaged.sentence


def test_seeds_keep_their_level_on_flat_curves():
    hits = sum(
        saturation(STEPS, curves(np.zeros(14), s, seeds=3), UNITS, start=0).late.p < 0.05
        for s in range(300)
    )
    assert hits <= stats.binom.isf(1e-3, 300, 0.05)


def test_the_same_curve_repeated_is_not_seeds():
    values = np.tile(curves(v_shaped(12), 0), (3, 1))
    found = saturation(STEPS, values, UNITS, start=0)
    assert np.isnan(found.late.p)
    assert found.verdict != "late rise"


def test_holm_adjusts_and_may_take_a_verdict_back():
    strong, weak = curves(v_shaped(20), 0), None
    for seed in range(200):
        found = saturation(STEPS, curves(v_shaped(3), seed), UNITS, start=0)
        if 0.02 < found.late.p < 0.05:
            weak = found
            break
    flat = saturation(STEPS, curves(falling(10, 78_000), 1), UNITS, start=0)
    alone = [weak, saturation(STEPS, strong, UNITS, start=0), flat]
    adjusted = holm(alone)
    p = sorted(f.late.p for f in alone)
    assert [f.p_adjusted for f in adjusted] == pytest.approx([2 * p[1], 3 * p[0], max(2 * p[1], p[2])])
    assert [f.verdict == "late rise" for f in alone] == [True, True, False]
    assert [f.verdict == "late rise" for f in adjusted] == [False, True, False]
    assert "adjusted" in adjusted[0].sentence


def test_chance_repeats():
    values = curves(v_shaped(3), 0)
    once, again = (saturation(STEPS, values, assume=Assumptions(draws=500, seed=4)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("steps", "values", "says"),
    [
        (STEPS[:9], np.ones(9), f"9 records from step 0, and the test needs {FEWEST_POINTS}"),
        (STEPS, np.where(STEPS == 43_000, np.nan, 1.0), r"values hold NaN or infinity \(first at \(3,\)\)"),
        (STEPS[::-1], np.ones(14), "133000 follows 143000"),
        (np.repeat(STEPS, 2), np.ones(28), "13000 follows 13000"),
        (STEPS, np.ones(13), r"steps are \(14,\) and values \(13,\)"),
        (STEPS - 20_000, np.ones(14), "below 0"),
        (STEPS, np.ones((2, 2, 14)), r"values \(2, 2, 14\)"),
    ],
)
def test_bad_records_are_named(steps, values, says):
    with pytest.raises(InputError, match=says):
        saturation(steps, values, start=0)


def test_bad_scales_are_named():
    with pytest.raises(InputError, match="a perplexity is above 0"):
        saturation(STEPS, np.zeros(14), PERPLEXITY)
    with pytest.raises(InputError, match="material is 0"):
        Scale(material=0)


def test_cool_down_finds_the_better_earlier_branch():
    rng = np.random.default_rng(0)
    finals = (
        np.array([3.0, 2.8, 2.9, 3.0]) + 0.02 * rng.standard_normal((4, 4)) + rng.standard_normal((4, 1))
    )
    found = cool_down([1000, 2000, 4000, 8000], finals)
    paired = [stats.ttest_rel(finals[:, 3], finals[:, b], alternative="greater").pvalue for b in range(3)]
    assert found.p == pytest.approx(3 * min(paired))
    assert found.best == 2000
    assert found.rises
    assert found.rise.lower < 0.2 < found.rise.upper
    assert "Cooled down from step 2,000 the run ends better" in found.sentence


def test_cool_down_bounds_hold_with_the_choice_of_branch():
    rng, misses = np.random.default_rng(1), 0
    for _ in range(150):
        found = cool_down(np.arange(1, 7), rng.standard_normal((3, 6)))
        misses += found.rises or found.rise.upper < 0
    assert misses <= stats.binom.isf(1e-3, 150, 0.1)


def test_cool_down_needs_seeds():
    with pytest.raises(InputError, match="two seeds"):
        cool_down([1, 2, 3], [1.0, 2.0, 3.0])


def test_t_bounds_are_scipys():
    values = np.random.default_rng(0).standard_normal(5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = t_bounds(values, 0.05)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high))
