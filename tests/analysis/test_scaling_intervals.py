"""Bootstrap intervals, held-out error and the gap, on laws that are known."""

import numpy as np
import pytest
from scipy import stats

from rankbound.analysis.scaling import fit_scaling
from rankbound.analysis.scaling_forms import Rank, RankExponential, Size, SizeTokens
from rankbound.analysis.scaling_heldout import folds, gap, held_out, largest, smallest
from rankbound.analysis.scaling_intervals import bootstrap
from rankbound.errors import InputError

PLANTED = {"E": 1.82, "A": 482.0, "alpha": 0.348}
N = {"N": np.repeat(np.geomspace(1e7, 3e9, 8), 3)}
TOKENS = np.geomspace(1e9, 1e11, 12)


def measured(seed=0, size=0.005):
    return Size().loss(PLANTED, N) * np.exp(size * np.random.default_rng(seed).normal(size=24))


def curves(sizes, seed=0, size=0.003):
    """Checkpoints of one run a size, with noise that a whole run shares: variables, loss, run."""
    x = {"N": np.repeat(sizes, len(TOKENS)), "T": np.tile(TOKENS, len(sizes))}
    planted = {**PLANTED, "B": 2085.0, "beta": 0.366}
    shared = size * np.random.default_rng(seed).normal(size=len(sizes))
    return x, SizeTokens().loss(planted, x) * np.exp(np.repeat(shared, len(TOKENS))), np.repeat(sizes, 12)


@pytest.mark.parametrize("method", ["runs", "residuals", "parametric"])
def test_most_intervals_hold_the_truth(method):
    """At a nominal 95 % over 40 data sets fewer than 33 is a chance of 0.1 %; the bench measures it."""
    inside = dict.fromkeys(PLANTED, 0)
    for seed in range(40):
        found = bootstrap(fit_scaling(Size(), N, measured(seed)), method=method, resamples=100, seed=seed)
        for name, value in PLANTED.items():
            low, high = found.interval(name)
            inside[name] += low <= value <= high
    assert min(inside.values()) >= 33


def test_least_squares_intervals_are_those_of_linear_theory():
    """With a delta beyond all noise: the width of E against the delta method's."""
    fit = fit_scaling(Size(), N, measured(), delta=1.0)
    found = bootstrap(fit, method="parametric", resamples=2000)
    log_n, E, rest = np.log(N["N"]), fit.parameters["E"], fit.predict(N) - fit.parameters["E"]
    jacobian = np.column_stack([np.full(24, E), rest, -log_n * rest]) / fit.predict(N)[:, None]
    scale = np.sqrt(np.linalg.inv(jacobian.T @ jacobian)[0, 0]) * fit.error * E
    low, high = found.interval("E")
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 21) * scale, rel=0.15)


def test_a_resample_is_fitted_as_well_as_from_many_starts():
    loss = measured()
    found = bootstrap(fit_scaling(Size(), N, loss), method="runs", resamples=20, seed=3)
    drawn = np.random.default_rng(3).multinomial(24, np.full(24, 1 / 24), size=20)
    for k, count in enumerate(drawn):
        rows = np.repeat(np.arange(24), count)
        anew = fit_scaling(Size(), {"N": N["N"][rows]}, loss[rows]).parameters
        assert found.draws["E"][k] == pytest.approx(anew["E"], rel=1e-3)


def test_the_same_seed_gives_the_same_draws():
    fit = fit_scaling(Size(), N, measured())
    first, again, other = (bootstrap(fit, resamples=20, seed=seed).draws["E"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_checkpoints_of_a_run_are_drawn_together():
    """Rows of a run share its luck: taken for independent, they would give far too narrow intervals."""
    x, loss, run = curves(np.geomspace(1e7, 3e9, 24), size=0.01)
    fit = fit_scaling(SizeTokens(), x, loss)
    whole, apart = bootstrap(fit, runs=run, resamples=100), bootstrap(fit, resamples=100)
    assert (whole.resampled, whole.method, whole.freedom) == ("24 runs", "runs", 19)
    (low, high), (low_apart, high_apart) = whole.interval("alpha"), apart.interval("alpha")
    assert high - low > 1.5 * (high_apart - low_apart)
    with pytest.raises(InputError, match="resample runs"):
        bootstrap(fit, runs=run, method="residuals")


def test_a_fixed_parameter_has_no_interval():
    fit = fit_scaling(Size(), N, measured(), fixed={"E": 1.82})
    found = bootstrap(fit, resamples=50)
    assert found.interval("E") == (1.82, 1.82)
    assert found.freedom == 22
    assert str(found).startswith("A ")
    assert "95 % intervals from 50 resamples of 24 residuals" in str(found)


def test_too_few_runs_for_intervals_are_named():
    x, loss, run = curves(np.geomspace(1e7, 3e9, 5))
    with pytest.raises(InputError, match="5 runs for 5 parameters"):
        bootstrap(fit_scaling(SizeTokens(), x, loss), runs=run)
    with pytest.raises(InputError, match="name the run of each row"):
        bootstrap(fit_scaling(SizeTokens(), x, loss), runs=run[:-1])


def test_held_out_rows_are_those_of_a_fit_without_them():
    loss = measured()
    found = held_out(Size(), N, loss, largest(N["N"], 2))
    fit = fit_scaling(Size(), {"N": N["N"][:18]}, loss[:18])
    assert found.rows.tolist() == list(range(18, 24))
    assert found.log_residuals == pytest.approx(np.log(loss[18:] / fit.predict({"N": N["N"][18:]})))
    assert found.error == pytest.approx(np.sqrt(np.mean(found.log_residuals**2)))
    assert "on 6 rows held out" in str(found)


def test_parts_keep_groups_whole():
    part = folds(N["N"], 4, seed=1)
    assert sorted(np.bincount(part)) == [6, 6, 6, 6]
    assert (part.reshape(8, 3) == part.reshape(8, 3)[:, :1]).all()
    assert np.array_equal(np.flatnonzero(smallest(N["N"], 1) == 0), [0, 1, 2])
    every = held_out(Size(), N, measured(), part)
    assert (len(every.rows), every.fits) == (24, 4)
    assert 0.003 < every.error < 0.02


def test_held_out_error_prefers_the_form_that_made_the_points():
    r = {"r": np.repeat(2.0 ** np.arange(1, 9), 3)}
    loss = Rank().loss({"E": 3.0, "C": 1.5, "gamma": 0.7}, r)
    loss *= np.exp(0.005 * np.random.default_rng(0).normal(size=24))
    right, wrong = (held_out(form, r, loss, folds(r["r"], 8)) for form in (Rank(), RankExponential()))
    assert right.error < 0.5 * wrong.error


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (lambda: folds(N["N"], 9), "9 folds of 8 groups"),
        (lambda: largest(N["N"], 8), "8 of 8 sizes"),
        (lambda: held_out(Size(), N, measured(), np.full(24, -1)), "no row is held out"),
        (lambda: held_out(Size(), N, measured(), np.zeros(3)), "parts has shape"),
        (lambda: held_out(Size(), N, measured(), largest(N["N"], 6)), "needs 3 values of N, not 2"),
    ],
)
def test_parts_that_leave_nothing_are_named(parts, said):
    with pytest.raises(InputError, match=said):
        parts()


@pytest.fixture(scope="module")
def law():
    x, loss, run = curves(np.geomspace(3e8, 1e10, 20))
    return bootstrap(fit_scaling(SizeTokens(), x, loss), runs=run, resamples=200)


def test_a_planted_gap_is_found_of_final_and_of_best_checkpoints(law):
    x, loss, run = curves(np.array([1e8, 1.5e8, 2e8]), seed=1)
    saturated = loss * np.tile(np.r_[np.full(10, 1.0), 1.04, 1.08], 3)
    found = gap(law, x, saturated, run, x["T"])
    low, high = found.interval("final")
    assert low < 8 < high
    assert low > 4
    end = {name: column[11::12] for name, column in x.items()}
    exact = 100 * (saturated[11::12] / law.fit.predict(end) - 1)
    assert found.final == pytest.approx(exact)
    assert (found.best < found.final).all()
    assert "final checkpoints +" in str(found)


def test_no_gap_is_found_where_there_is_none(law):
    x, loss, run = curves(np.array([1e8, 1.5e8, 2e8]), seed=2)
    shuffled = np.random.default_rng(0).permutation(len(loss))
    x = {name: column[shuffled] for name, column in x.items()}
    low, high = gap(law, x, loss[shuffled], run[shuffled], x["T"]).interval("final")
    assert low < 0 < high


def test_the_gap_is_of_this_seed_and_of_whole_columns(law):
    x, loss, run = curves(np.array([1e8]))
    again = [gap(law, x, loss, run, x["T"], seed=5).final_draws for _ in range(2)]
    assert np.array_equal(*again)
    with pytest.raises(InputError, match="rows: pass one value a checkpoint"):
        gap(law, x, loss, run[:-1], x["T"])
    with pytest.raises(InputError, match="positive numbers"):
        gap(law, x, -loss, run, x["T"])
