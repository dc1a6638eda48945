"""The linear model of confounders against closed forms, Welch's test and simulated coverage."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rankbound.analysis.confounders import co_occurrence
from rankbound.analysis.robust import robust_estimates
from rankbound.errors import InputError

FACTORS = ["decay", "schedule", "hidden_size"]


def study(rng, noise=0.02, shared=0.0, number=3) -> pd.DataFrame:
    """Deficit = 0.1 with decay - 0.05 with a constant schedule + luck a seed does to decayed runs."""
    luck = shared * rng.normal(size=number)
    rows = []
    for decay in (0.0, 0.1):
        for schedule in ("constant", "cosine"):
            for width in (8, 16, 32):
                for seed in range(number):
                    deficit = 0.3 + 0.1 * (decay > 0) - 0.05 * (schedule == "constant") - width / 1000
                    deficit += luck[seed] * (decay > 0) + noise * (1 + width / 16) * rng.normal()
                    rows.append((f"{decay}{schedule}{width}", seed, decay, schedule, width, deficit))
    columns = ["cell", "seed", "decay", "schedule", "hidden_size", "deficit"]
    return pd.DataFrame(rows, columns=columns).assign(state="finished")


def test_without_noise_the_planted_effects_come_back():
    found = co_occurrence(study(np.random.default_rng(0), noise=0.0), "deficit", FACTORS, unit="nats")
    effects = {(t.factor, t.level): t.estimate.mean for t in found.terms}
    assert effects == pytest.approx(
        {
            ("decay", 0.1): 0.1,
            ("schedule", "cosine"): 0.05,
            ("hidden_size", 16): -0.008,
            ("hidden_size", 32): -0.024,
        }
    )
    assert found.r_squared == pytest.approx(1)
    assert found.rows == 12


def test_a_slope_and_a_chosen_reference():
    found = co_occurrence(
        study(np.random.default_rng(0), noise=0.0),
        "deficit",
        ["schedule"],
        numeric=["decay", "hidden_size"],
        references={"schedule": "cosine"},
    )
    effects = {(t.factor, t.level): t.estimate.mean for t in found.terms}
    expected = {("schedule", "constant"): -0.05, ("decay", None): 1.0, ("hidden_size", None): -0.001}
    assert effects == pytest.approx(expected)


def test_two_groups_of_single_rows_is_nearly_welchs_test():
    """HC2 of two means is exactly Welch's error; Bell and McCaffrey's freedom is for equal variances."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 7), rng.normal(0, 3, 5)
    design = np.column_stack([np.ones(12), np.repeat([0.0, 1.0], [7, 5])])
    _, found = robust_estimates(design, np.concatenate([a, b]), np.arange(12))
    welch = stats.ttest_ind(b, a, equal_var=False)
    assert found.mean / found.error == pytest.approx(welch.statistic)
    share = np.array([1 / 7, 1 / 5])
    expected = share.sum() ** 2 / (share**2 / np.array([6, 4])).sum()
    assert found.freedom == pytest.approx(expected)


def test_clusters_that_hold_both_levels_are_the_paired_t_test():
    rng = np.random.default_rng(2)
    low, high = rng.normal(size=4), rng.normal(size=4)
    design = np.column_stack([np.ones(8), np.repeat([0.0, 1.0], 4)])
    _, found = robust_estimates(design, np.concatenate([low, high]), np.tile(np.arange(4), 2))
    expected = stats.ttest_rel(high, low)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.freedom == pytest.approx(3)


def test_units_do_not_matter():
    frame = study(np.random.default_rng(3)).assign(tokens=lambda f: f["hidden_size"] * 1e9)
    small = co_occurrence(frame, "deficit", [], numeric=["hidden_size"]).terms[0]
    large = co_occurrence(frame, "deficit", [], numeric=["tokens"]).terms[0]
    assert large.p == pytest.approx(small.p)
    assert large.estimate.freedom == pytest.approx(small.estimate.freedom)


@pytest.mark.parametrize(("rows", "shared"), [("cells", 0.0), ("seeds", 0.1)])
def test_intervals_cover_as_often_as_they_say(rows, shared):
    rng, covered, naive = np.random.default_rng(4), [], []
    for _ in range(200):
        frame = study(rng, shared=shared)
        term = co_occurrence(frame, "deficit", FACTORS, rows=rows).terms[0]
        covered.append(term.estimate.low < 0.1 < term.estimate.high)
        if shared and len(naive) < 50:
            term = co_occurrence(frame, "deficit", FACTORS).terms[0]
            naive.append(term.estimate.low < 0.1 < term.estimate.high)
    assert 0.91 < np.mean(covered) < 0.99
    assert not shared or np.mean(naive) < 0.6  # what the seeds share, cell means cannot see


def test_the_words_say_what_goes_together():
    found = co_occurrence(study(np.random.default_rng(5), noise=0.002), "deficit", FACTORS, unit="nats")
    assert "decay = 0.1 goes with a deficit 0.0988 nats higher than decay = 0 [+0.09" in found.sentence
    assert "not what causes what" in found.sentence
    assert len(found.frame()) == len(found.terms)
    nothing = co_occurrence(study(np.random.default_rng(5)).assign(x=np.arange(36) % 7), "x", ["decay"])
    assert "No factor can be told" in nothing.sentence


def test_a_level_of_one_cell_has_no_interval():
    frame = study(np.random.default_rng(6))
    frame = frame[(frame["hidden_size"] < 32) | (frame["cell"] == "0.0cosine32")]
    terms = co_occurrence(frame, "deficit", FACTORS).terms
    known = {(t.factor, t.level): not math.isnan(t.p) for t in terms}
    assert not known["hidden_size", 32]
    assert known["decay", 0.1]
    assert "has no interval" in terms[-1].sentence


def test_what_cannot_be_told_apart_is_refused():
    frame = study(np.random.default_rng(7)).assign(twin=lambda f: f["decay"] * 2)
    with pytest.raises(InputError, match=r"twin = 0\.2 cannot be told apart"):
        co_occurrence(frame, "deficit", ["decay", "twin"])
    with pytest.raises(InputError, match="did you mean schedule"):
        co_occurrence(frame, "deficit", ["shedule"])
    with pytest.raises(InputError, match="reference schedule = cosin; did you mean cosine"):
        co_occurrence(frame, "deficit", FACTORS, references={"schedule": "cosin"})
    with pytest.raises(InputError, match="2 rows cannot carry"):
        co_occurrence(frame[frame["cell"].isin(["0.0cosine8", "0.1constant8"])], "deficit", FACTORS)


def test_runs_without_a_number_are_counted():
    frame = study(np.random.default_rng(8))
    frame.loc[3, "deficit"] = math.nan
    assert "1 run left out for want of a value" in co_occurrence(frame, "deficit", FACTORS).sentence
