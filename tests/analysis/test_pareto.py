"""The Pareto front against its definition, and its tests on fronts that are known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound.analysis.pareto import front_sentence, on_front, pareto
from rankbound.errors import InputError

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=15)


@given(points)
def test_the_front_is_what_nothing_dominates(found):
    cost, loss = np.array(found, dtype=float).T
    for i, on in enumerate(on_front(cost, loss)):
        dominated = any(
            a <= cost[i] and b <= loss[i] and (a < cost[i] or b < loss[i])
            for a, b in zip(cost, loss, strict=True)
        )
        assert on != dominated


def runs(losses, costs, number=3, noise=0.01, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (f"cell{i}", s, "finished", cost, loss + noise * rng.normal())
        for i, (loss, cost) in enumerate(zip(losses, costs, strict=True))
        for s in range(number)
    ]
    return pd.DataFrame(rows, columns=["cell", "seed", "state", "parameters", "valid/loss"])


def test_far_behind_is_told_and_a_hair_is_not():
    frame = runs([4.0, 3.5, 3.502, 3.9], [1, 2, 3, 4])
    found = pareto(frame, "parameters").set_index("cell")
    assert found.loc["cell0", "reading"] == found["reading"].iloc[0] == "on the front"
    assert found.loc["cell3", "reading"] == "behind"
    assert found.loc["cell3", "gap"] == pytest.approx(0.4, abs=0.03)
    assert "behind" not in set(found.loc[["cell1", "cell2"], "reading"])
    assert (found.loc[found["front"], "gap"] == 0).all()
    assert "cell0" in front_sentence(found.reset_index(), "parameters")


def test_cells_that_are_alike_are_seldom_called_behind():
    claims = [
        (pareto(runs([4.0] * 6, range(6), seed=seed), "parameters")["reading"] == "behind").any()
        for seed in range(150)
    ]
    assert np.mean(claims) < 0.09


def test_one_seed_is_on_the_front_or_cannot_be_told():
    found = pareto(runs([4.0, 5.0, 3.0], [1, 2, 3], number=1), "parameters")
    assert list(found["reading"]) == ["on the front", "could not tell", "on the front"]
    lone = runs([5.0], [2], number=1).assign(cell="lone")
    mixed = pd.concat([runs([4.0, 3.0], [1, 3]), lone])
    assert pareto(mixed, "parameters").set_index("cell").loc["lone", "reading"] == "could not tell"


def test_flops_are_of_training_and_what_has_no_cost_is_left_out():
    frame = runs([4.0, 3.0], [1, 2]).assign(flops_per_token=[10.0] * 3 + [np.nan] * 3, tokens=100)
    found = pareto(frame, "flops", keep=["tokens"])
    assert found["flops"].tolist() == [3000.0]
    assert found["tokens"].tolist() == [100]
    with pytest.raises(InputError, match="did you mean parameters"):
        pareto(frame, "parameter")
    none = pareto(frame.assign(state="failed"), "parameters")
    assert "No finished run" in front_sentence(none, "parameters")
