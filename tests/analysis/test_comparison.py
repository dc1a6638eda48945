"""Paired comparisons on studies whose differences are known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rankbound.analysis.comparison import compare
from rankbound.errors import InputError

AXES = ["model.head", "hidden_size", "decay"]
HEADS = {"Linear": 0.0, "Narrow": 0.1, "Same": 0.0}


def study(rng, noise=0.01, widths=(8, 16), decays=(0.0, 0.1), number=3, heads=HEADS) -> pd.DataFrame:
    """Loss = width + seed's luck in the cell + head + noise."""
    rows = []
    for width in widths:
        for decay in decays:
            luck = rng.normal(0, 0.5, number)
            for head, effect in heads.items():
                for seed in range(number):
                    loss = 4 - width / 50 + luck[seed] + effect + noise * rng.normal()
                    rows.append((head, width, decay, seed, "finished", loss))
    frame = pd.DataFrame(rows, columns=[*AXES, "seed", "state", "valid/loss"])
    return frame.assign(run=[f"run{i}" for i in range(len(frame))])


def of(frame, head, width, decay) -> pd.Series:
    own = frame[(frame["model.head"] == head) & (frame["hidden_size"] == width) & (frame["decay"] == decay)]
    return own.set_index("seed")["valid/loss"]


def test_unpooled_is_the_paired_t_test_of_every_cell():
    frame = study(np.random.default_rng(0), number=4)
    found = compare(frame.sample(frac=1, random_state=0), AXES, "model.head", "Linear", pool="none")
    assert len(found.differences) == 8
    for d in found.differences:
        cell = (d.cell["hidden_size"], d.cell["decay"])
        expected = stats.ttest_rel(of(frame, d.variant, *cell), of(frame, "Linear", *cell))
        assert d.estimate.p == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval()
        assert (d.estimate.low, d.estimate.high) == pytest.approx((interval.low, interval.high))


def test_pooled_over_cells_has_the_mean_variance_and_all_degrees_of_freedom():
    frame = study(np.random.default_rng(1))
    found = compare(frame, AXES, "model.head", "Linear")
    own = [d for d in found.differences if d.variant == "Narrow"]
    variances = [np.var(list(d.by_seed.values()), ddof=1) for d in own]
    for d in own:
        assert d.estimate.freedom == 4 * 2
        assert d.estimate.error == pytest.approx(math.sqrt(np.mean(variances) / 3))
    assert "8 degrees of freedom" in found.sentence
    assert "pooled over the cells of the same two variants" in found.sentence


def test_pooling_over_variants_in_one_cell_is_the_two_way_analysis_of_variance():
    frame = study(np.random.default_rng(2), widths=(8,), decays=(0.0,))
    found = compare(frame, AXES, "model.head", "Linear", pool="all")
    table = frame.pivot_table(index="seed", columns="model.head", values="valid/loss").to_numpy()
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    variance = (left**2).sum() / 4
    for d in found.differences:
        assert d.estimate.freedom == 4
        assert d.estimate.error == pytest.approx(math.sqrt(2 * variance / 3))


def test_seeds_luck_cancels_and_the_difference_is_told():
    found = compare(study(np.random.default_rng(3)), AXES, "model.head", "Linear", margin=0.05)
    readings = {(d.variant, d.reading) for d in found.differences}
    assert readings == {("Narrow", "higher"), ("Same", "could not tell")}
    assert all(d.equivalent == (d.variant == "Same") for d in found.differences)
    assert all("shown to be within ±0.05 nats" in d.sentence for d in found.differences)


def test_averages_over_cells_have_their_error_from_the_seeds():
    """Where cells share their seed's luck, its variance does not shrink with the number of cells."""
    rng, covered = np.random.default_rng(4), []
    heads = {"Linear": 0.0, "Narrow": 0.1}
    for _ in range(120):
        frame = study(rng, noise=0.01, heads=heads)
        shared = rng.normal(0, 0.05, 3)
        frame.loc[frame["model.head"] == "Narrow", "valid/loss"] += shared[
            frame.loc[frame["model.head"] == "Narrow", "seed"]
        ]
        (average,) = compare(frame, AXES, "model.head", "Linear").averages
        covered.append(average.estimate.low < 0.1 < average.estimate.high)
        assert average.cells == 4
        assert average.estimate.freedom == 2
    assert 0.90 < np.mean(covered) <= 0.99


def test_under_no_difference_holm_keeps_the_share_of_studies_with_any_claim():
    rng = np.random.default_rng(5)
    heads = {"Linear": 0.0, "A": 0.0, "B": 0.0}
    claims = []
    for _ in range(150):
        found = compare(study(rng, heads=heads), AXES, "model.head", "Linear")
        claims.append(any(d.reading in ("lower", "higher") for d in found.differences))
    assert np.mean(claims) < 0.09
    assert np.mean(claims) > 0.005


def test_one_seed_has_no_interval_and_says_so():
    frame = study(np.random.default_rng(6), number=1)
    for pool in ("cells", "all", "none"):
        found = compare(frame, AXES, "model.head", "Linear", pool=pool)
        assert {d.reading for d in found.differences} == {"no interval"}
        assert all("one seed has no interval" in d.sentence for d in found.differences)
        assert "8 without an interval" in found.sentence
    # nor where other cells have more
    mixed = study(np.random.default_rng(6))
    mixed = mixed[(mixed["hidden_size"] == 8) | (mixed["seed"] == 0)]
    readings = {
        (d.cell["hidden_size"], d.reading == "no interval")
        for d in compare(mixed, AXES, "model.head", "Linear").differences
    }
    assert readings == {(8, False), (16, True)}


def test_missing_seeds_are_paired_on_those_in_common_and_named():
    frame = study(np.random.default_rng(7), number=4)
    narrow = (frame["model.head"] == "Narrow") & (frame["hidden_size"] == 8) & (frame["decay"] == 0.0)
    frame.loc[narrow & (frame["seed"] == 2), "state"] = "failed"
    frame.loc[narrow & (frame["seed"] == 3), "valid/loss"] = math.nan
    found = compare(frame, AXES, "model.head", "Linear")
    cell = {"hidden_size": 8, "decay": 0.0}
    (first,) = (d for d in found.differences if d.variant == "Narrow" and d.cell == cell)
    assert set(first.by_seed) == {0, 1}
    assert set(first.unpaired) == {2, 3}
    assert "without 2 and 3" in first.sentence
    assert first.estimate.freedom == 1 + 3 * 3
    assert "1 run not finished and 1 run finished without a finite value" in found.sentence
    (average,) = (d for d in found.averages if d.variant == "Narrow")
    assert set(average.by_seed) == {0, 1}


def test_identical_runs_are_called_the_same_not_significant():
    frame = study(np.random.default_rng(8), heads={"Linear": 0.0})
    copy = frame.assign(**{"model.head": "Copy"})
    found = compare(pd.concat([frame, copy]), AXES, "model.head", "Linear")
    assert all(math.isnan(d.p) for d in found.differences)
    assert all("the same as Linear to the last digit" in d.sentence for d in found.differences)


def test_pairs_may_need_a_seed_of_the_data_too():
    frame = study(np.random.default_rng(9), widths=(8,), decays=(0.0,), number=2)
    both = pd.concat([frame.assign(data_seed=0), frame.assign(data_seed=1)])
    with pytest.raises(InputError, match="two finished runs of Linear at hidden_size = 8"):
        compare(both, AXES, "model.head", "Linear")
    found = compare(both, AXES, "model.head", "Linear", paired_by=("seed", "data_seed"))
    assert set(found.differences[0].by_seed) == {(0, 0), (1, 0), (0, 1), (1, 1)}


def test_a_numeric_axis_and_its_words():
    frame = study(np.random.default_rng(10), heads={"Linear": 0.0})
    without = frame.loc[frame["decay"] == 0.0, "valid/loss"].to_numpy()
    frame.loc[frame["decay"] == 0.1, "valid/loss"] = without - 0.022
    frame["valid/loss"] += 1e-3 * np.random.default_rng(0).normal(size=len(frame))
    sentence = compare(frame, AXES, "decay", 0.0).differences[0].sentence
    assert sentence.startswith("decay = 0.1 at Linear, hidden_size = 8: 0.02")
    assert "nats lower than decay = 0 [\N{MINUS SIGN}0.02" in sentence
    assert "3 seeds, Holm p" in sentence


def test_the_table_is_one_row_a_difference():
    found = compare(study(np.random.default_rng(11)), AXES, "model.head", "Linear")
    table = found.frame()
    assert len(table) == len(found.differences)
    assert {"variant", "hidden_size", "decay", "seeds", "low", "high", "p", "reading"} <= set(table)


def test_wrong_names_are_told_with_the_nearest():
    frame = study(np.random.default_rng(12))
    with pytest.raises(InputError, match=r"'model\.haed'; did you mean model\.head"):
        compare(frame, AXES, "model.haed", "Linear")
    with pytest.raises(InputError, match="reference Liner; did you mean Linear"):
        compare(frame, AXES, "model.head", "Liner")


def test_nothing_to_pair_is_said_in_words():
    frame = study(np.random.default_rng(13))
    frame = frame[(frame["model.head"] == "Linear") == (frame["hidden_size"] == 8)]
    assert "nothing to compare" in compare(frame, AXES, "model.head", "Linear").sentence
