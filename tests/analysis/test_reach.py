"""Tokens to reach, on curves whose crossing is known in closed form."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound.analysis.reach import first_reached, tokens_to_reach
from rankbound.errors import InputError

TOKENS = np.geomspace(1e3, 1e6, 40)


@given(st.floats(1e3, 1e6), st.floats(0.1, 2))
def test_a_curve_linear_in_the_logarithm_is_crossed_exactly(at, slope):
    losses = 8 - slope * np.log(TOKENS)
    found = first_reached(TOKENS, losses, 8 - slope * math.log(at))
    assert found.tokens == pytest.approx(at, rel=1e-6)


@given(st.lists(st.floats(0, 5), min_size=2, max_size=20), st.floats(0, 5))
def test_the_first_crossing_is_where_the_running_minimum_crosses(losses, target):
    tokens = np.arange(1.0, len(losses) + 1)
    found = first_reached(tokens, losses, target)
    assert found == first_reached(tokens, np.minimum.accumulate(losses), target) or found.how == "reached"
    before = tokens < found.tokens - 1e-9
    assert (np.array(losses)[before] > target).all()
    assert (found.how == "not reached") == (min(losses) > target)


def test_a_bound_is_called_a_bound():
    losses = [4.0, math.nan, 3.0, 2.0]
    assert first_reached([0, 1, 2, 4], losses, 1.0).how == "not reached"
    assert first_reached([0, 1, 2, 4], losses, 1.0).tokens == 4
    assert first_reached([5, 6, 7, 8], losses, 4.5).how == "at the first record"
    assert first_reached([0, 1, 2, 4], losses, 3.5).tokens == pytest.approx(1.0)  # no logarithm of 0
    with pytest.raises(InputError, match="tokens that increase"):
        first_reached([1, 1], [3.0, 2.0], 1.0)


def table(speeds, number=3, noise=0.0, rise=0.0):
    """Runs with loss 8 - 0.4 ln(speed * tokens), a speed's logarithm varying by seed."""
    rng = np.random.default_rng(0)
    results, curves = [], []
    for head, speed in speeds.items():
        for seed in range(number):
            run = f"{head}-{seed}"
            results.append((run, head, seed, "finished"))
            own = speed * math.exp(noise * rng.normal())
            losses = 8 - 0.4 * np.log(own * TOKENS) + rise * np.linspace(-1, 1, len(TOKENS)).clip(0)
            curves.append(
                pd.DataFrame({"run": run, "tokens": TOKENS, "name": "valid/loss", "value": losses})
            )
    return pd.DataFrame(results, columns=["run", "model.head", "seed", "state"]), pd.concat(curves)


def test_a_planted_speed_up_is_found_and_covered():
    results, curves = table({"Linear": 1.0, "Fast": 1.6}, noise=0.02)
    (found,) = tokens_to_reach(results, curves, ["model.head"], "model.head", "Linear")
    assert found.ratio == pytest.approx(1 / 1.6, rel=0.05)
    assert math.exp(found.estimate.low) < 1 / 1.6 < math.exp(found.estimate.high)
    assert found.sentence.startswith("Fast reaches the final loss of Linear after 0.6")
    assert "3 seeds, Holm p" in found.sentence


def test_what_is_slower_is_censored_and_read_from_the_other_side():
    results, curves = table({"Linear": 1.0, "Slow": 0.5})
    (found,) = tokens_to_reach(results, curves, ["model.head"], "model.head", "Linear")
    assert set(found.censored) == {0, 1, 2}
    assert math.isnan(found.estimate.half_width)
    assert all(ratio == pytest.approx(0.5) for ratio in found.converse.values())
    assert "does not reach the final loss of Linear within the budget in any of 3 seeds" in found.sentence
    assert "passed the variant's final loss after 0.50 times" in found.sentence


def test_some_censored_seeds_leave_a_bound_without_an_interval():
    results, curves = table({"Linear": 1.0, "Fast": 1.6})
    curves.loc[curves["run"] == "Fast-1", "value"] += 1.0
    (found,) = tokens_to_reach(results, curves, ["model.head"], "model.head", "Linear")
    assert found.censored == (1,)
    assert list(found.by_seed.values()) == pytest.approx([1 / 1.6, 1.0, 1 / 1.6])
    assert math.isnan(found.p)
    assert "reaches the final loss of Linear within the budget in 2 of 3 seeds" in found.sentence


def test_a_curve_that_saturates_and_rises_against_itself_is_one():
    results, curves = table({"Linear": 1.0, "Twin": 1.0}, rise=1.0)
    (found,) = tokens_to_reach(results, curves, ["model.head"], "model.head", "Linear")
    assert list(found.by_seed.values()) == pytest.approx([1.0] * 3)
    assert not found.censored


def test_one_seed_has_no_interval_and_few_records_are_said():
    results, curves = table({"Linear": 1.0, "Fast": 1.6}, number=1)
    few = curves[curves["tokens"].isin(TOKENS[::8])]
    (found,) = tokens_to_reach(results, few, ["model.head"], "model.head", "Linear")
    assert "1 seed; no interval, so it may be luck" in found.sentence
    assert "read from 5 records a curve" in found.sentence


def test_runs_without_a_curve_are_not_read():
    results, curves = table({"Linear": 1.0, "Fast": 1.6})
    last = curves[curves["tokens"] == TOKENS[-1]]
    (found,) = tokens_to_reach(results, last, ["model.head"], "model.head", "Linear")
    assert not found.by_seed
    assert "have no curves to read a crossing from" in found.sentence
    with pytest.raises(InputError, match="did you mean valid/loss"):
        tokens_to_reach(results, curves, ["model.head"], "model.head", "Linear", name="valid/los")
