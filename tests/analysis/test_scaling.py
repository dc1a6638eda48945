"""Scaling laws: planted constants, independent minimisers and likelihoods, and what cannot be fitted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from rankbound.analysis.scaling import fit_scaling
from rankbound.analysis.scaling_forms import (
    Power,
    Rank,
    RankExponential,
    Size,
    SizeRank,
    SizeTokens,
    SizeWithoutFloor,
)
from rankbound.analysis.scaling_minimise import Design, huber, starts
from rankbound.errors import InputError

SIZES, TOKENS, RANKS = np.geomspace(1e7, 3e9, 7), np.geomspace(2e8, 2e11, 6), 2.0 ** np.arange(1, 9)
NT = {"N": np.repeat(SIZES, 6), "T": np.tile(TOKENS, 7)}
NR = {"N": np.repeat(SIZES, 8), "r": np.tile(RANKS, 7)}
CHINCHILLA = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
PLANTED = [
    (Size(), {"N": SIZES}, {"E": 1.82, "A": 482.0, "alpha": 0.348}),
    (SizeWithoutFloor(), {"N": SIZES}, {"A": 20.0, "alpha": 0.1}),
    (SizeTokens(), NT, CHINCHILLA),
    (Rank(), {"r": RANKS}, {"E": 3.0, "C": 1.5, "gamma": 0.7}),
    (RankExponential(), {"r": RANKS}, {"E": 3.0, "C": 1.5, "gamma": 0.05}),
    (SizeRank(), NR, {"E": 2.0, "A": 482.0, "C": 0.8, "alpha": 0.348, "gamma": 0.6}),
]


def noisy(form, x, planted, size=0.005, seed=0):
    clean = form.loss(planted, x)
    return clean * np.exp(size * np.random.default_rng(seed).normal(size=len(clean)))


@pytest.mark.parametrize(("form", "x", "planted"), PLANTED, ids=lambda p: type(p).__name__)
def test_planted_constants_come_back(form, x, planted):
    loss = form.loss(planted, x)
    fit = fit_scaling(form, x, loss)
    assert fit.parameters == pytest.approx(planted, rel=1e-3)
    assert fit.predict(x) == pytest.approx(loss, rel=1e-6)
    assert not fit.at_bound


def test_a_form_is_what_its_text_says():
    at = {"N": np.array([1e8]), "T": np.array([1e10])}
    assert str(SizeTokens()) == "L(N, T) = E + A / N^alpha + B / T^beta"
    written = 1.82 + 482.0 / 1e8**0.348 + 2085.0 / 1e10**0.366
    assert SizeTokens().loss(CHINCHILLA, at)[0] == pytest.approx(written)
    exponential = RankExponential().loss({"E": 3.0, "C": 1.5, "gamma": 0.05}, {"r": np.array([20.0])})
    assert exponential[0] == pytest.approx(3 + 1.5 / np.e)


def test_a_new_form_is_its_terms():
    class SizeTokensRank(SizeTokens):
        terms = (*SizeTokens.terms, Power("C", "gamma", "r"))

    x = {name: np.repeat(column, 4) for name, column in NT.items()}
    x["r"] = np.tile([8.0, 16, 64, 256], 42)
    planted = {**CHINCHILLA, "C": 0.9, "gamma": 0.8}
    found = fit_scaling(SizeTokensRank(), x, SizeTokensRank().loss(planted, x)).parameters
    assert found == pytest.approx(planted, rel=1e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0])
def test_no_other_minimiser_finds_less(delta):
    """Against Nelder and Mead on the formula as it is written, from several starts and from our end."""
    loss = noisy(SizeTokens(), NT, CHINCHILLA)
    fit = fit_scaling(SizeTokens(), NT, loss, delta=delta)

    def objective(free):
        E, A, B = np.exp(free[:3])
        predicted = E + A / NT["N"] ** free[3] + B / NT["T"] ** free[4]
        return 1e3 / delta * special.huber(delta, np.log(predicted / loss)).sum()

    begins = [(0.5, a, b, 0.3, 0.4) for a in (5, 7) for b in (6, 8)]
    begins.append(
        (*np.log([fit.parameters[c] for c in "EAB"]), fit.parameters["alpha"], fit.parameters["beta"])
    )
    least = min(optimize.minimize(objective, begin, method="Nelder-Mead").fun for begin in begins)
    assert fit.objective * 1e3 / delta <= least * (1 + 1e-6)
    assert fit.objective == pytest.approx(special.huber(delta, fit.log_residuals).sum())


def test_a_large_delta_is_least_squares():
    loss = noisy(Size(), {"N": np.repeat(SIZES, 3)}, PLANTED[0][2])
    x = {"N": np.repeat(SIZES, 3)}

    def log_law(N, log_e, log_a, alpha):
        return np.log(np.exp(log_e) + np.exp(log_a - alpha * np.log(N)))

    expected, _ = optimize.curve_fit(log_law, x["N"], np.log(loss), p0=(0.6, 6, 0.35))
    found = fit_scaling(Size(), x, loss, delta=10.0).parameters
    assert [np.log(found["E"]), np.log(found["A"]), found["alpha"]] == pytest.approx(expected, rel=1e-4)


def test_projected_coefficients_are_nonnegative_least_squares():
    rng = np.random.default_rng(0)
    features = np.column_stack([np.zeros(20), rng.normal(size=(20, 2))])
    bounds = np.array([-40.0] * 3 + [0.3, 1.7]), np.array([40.0] * 3 + [0.3, 1.7])
    design = Design(features, *bounds)
    for _ in range(10):
        log_loss = rng.normal(size=20)
        (at,) = starts(design, log_loss, np.ones(20), points=1)
        shape = np.exp(-features * [0, 0.3, 1.7])
        expected, _ = optimize.nnls(shape * np.exp(-log_loss)[:, None], np.ones(20))
        assert np.exp(at[:3]) == pytest.approx(expected, abs=1e-8)


def test_the_jacobian_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    design = Design(
        np.column_stack([np.zeros(5), rng.normal(size=(5, 2))]), np.full(5, -9.0), np.full(5, 9.0)
    )
    at, step = rng.normal(size=5), 1e-6
    exact = design.jacobian(design.log_loss(at[None])[1])[0]
    shifted = (
        np.array([at + step * unit for unit in np.eye(5)]),
        np.array([at - step * unit for unit in np.eye(5)]),
    )
    numeric = (design.log_loss(shifted[0])[0] - design.log_loss(shifted[1])[0]) / (2 * step)
    assert exact == pytest.approx(numeric, abs=1e-8)


def test_one_bad_run_does_not_move_a_robust_fit():
    loss = noisy(SizeTokens(), NT, CHINCHILLA)
    spoilt = loss.copy()
    spoilt[10] *= 1.5
    moved = {}
    for delta in (1e-3, 1.0):
        clean, bad = (fit_scaling(SizeTokens(), NT, y, delta=delta).parameters for y in (loss, spoilt))
        moved[delta] = abs(bad["E"] - clean["E"])
    assert moved[1e-3] < 0.1 * moved[1.0]


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3), nats=st.floats(0.1, 10))
def test_units_change_constants_and_nothing_else(scale, nats):
    """Sizes in other units leave E and alpha and multiply A; loss in other units multiplies E and A."""
    loss = noisy(Size(), {"N": SIZES}, PLANTED[0][2])
    one = fit_scaling(Size(), {"N": SIZES}, loss).parameters
    other = fit_scaling(Size(), {"N": SIZES * scale}, loss * nats).parameters
    assert other["alpha"] == pytest.approx(one["alpha"], rel=1e-4)
    assert other["E"] == pytest.approx(nats * one["E"], rel=1e-4)
    assert other["A"] == pytest.approx(nats * one["A"] * scale ** other["alpha"], rel=1e-2)


def test_fixed_parameters_stay_and_the_others_follow():
    loss = SizeTokens().loss(CHINCHILLA, NT)
    given = {"E": 1.82, "B": 2085.0, "beta": 0.366}
    fit = fit_scaling(SizeTokens(), NT, loss, fixed=given)
    assert fit.parameters == pytest.approx(CHINCHILLA, rel=1e-3)
    assert {name: fit.parameters[name] for name in given} == given
    wrong = fit_scaling(SizeTokens(), NT, loss, fixed={"E": 1.0})
    assert wrong.parameters["E"] == 1.0
    assert wrong.objective > fit.objective


def test_no_floor_is_found_as_none():
    loss = noisy(SizeWithoutFloor(), {"N": np.repeat(SIZES, 4)}, {"A": 20.0, "alpha": 0.1}, 0.002, seed=1)
    bent_down = loss * np.linspace(1, 0.9, 28)  # a floor would bend the law up
    fit = fit_scaling(Size(), {"N": np.repeat(SIZES, 4)}, bent_down)
    assert fit.parameters["E"] == 0


def test_a_rate_that_the_points_do_not_determine_is_named():
    loss = np.array([4.0] + [3.0] * 6)  # a fall between the first two sizes and none after
    fit = fit_scaling(Size(), {"N": SIZES}, loss)
    assert fit.at_bound == ("alpha",)
    assert "alpha not determined" in str(fit)


def test_a_term_that_adds_nothing_is_none_and_its_rate_unknown():
    loss = noisy(Size(), {"N": NR["N"]}, PLANTED[0][2]) * (NR["r"] / 8) ** 0.01  # rises with rank
    fit = fit_scaling(SizeRank(), NR, loss)
    assert fit.parameters["C"] == 0
    assert fit.at_bound == ("gamma",)


@pytest.mark.parametrize("delta", [1e-3, 1.0])
def test_aicc_is_the_likelihood_of_hubers_density(delta):
    loss = noisy(Rank(), {"r": RANKS}, PLANTED[3][2], 0.01)
    fit = fit_scaling(Rank(), {"r": RANKS}, loss, delta=delta)

    def twice_negative(log_scale):
        scale = np.exp(log_scale)
        width = 60 * max(np.sqrt(scale), scale / delta)
        grid = np.linspace(-width, width, 2_000_001)
        mass = integrate.trapezoid(np.exp(-huber(grid, delta) / scale), grid)
        return 2 * fit.objective / scale + 2 * len(loss) * np.log(mass)

    centre = np.log(fit.objective / len(loss))
    best = optimize.minimize_scalar(twice_negative, bounds=(centre - 3, centre + 3), method="bounded")
    assert fit.aicc == pytest.approx(best.fun + 2 * 4 + 2 * 4 * 5 / (8 - 4 - 1), abs=0.01)


def test_aicc_prefers_the_form_that_made_the_points():
    ranks = np.repeat(RANKS, 3)
    for form, other, planted in (
        (Rank(), RankExponential(), PLANTED[3][2]),
        (RankExponential(), Rank(), PLANTED[4][2]),
    ):
        loss = noisy(form, {"r": ranks}, planted)
        right, wrong = (fit_scaling(f, {"r": ranks}, loss).aicc for f in (form, other))
        assert right < wrong - 10
    assert np.isnan(fit_scaling(Size(), {"N": SIZES[:5]}, np.linspace(4, 3, 5)).aicc)


@pytest.mark.parametrize(
    ("x", "loss", "fixed", "said"),
    [
        ({"T": SIZES}, SIZES, {}, "needs N, which is not among T"),
        ({"N": SIZES}, np.r_[np.nan, SIZES[1:]], {}, "loss is nan in row 0"),
        ({"N": np.r_[SIZES[:6], 0]}, SIZES, {}, "N is 0 in row 6"),
        ({"N": SIZES}, -SIZES, {}, "loss is -1e"),
        ({"N": SIZES[:5]}, SIZES, {}, "N has 5 rows and loss 7"),
        ({"N": SIZES[:3]}, SIZES[:3], {}, "3 points for 3 parameters"),
        ({"N": np.repeat(SIZES[:2], 4)}, np.ones(8), {}, "needs 3 values of N, not 2"),
        ({"N": SIZES}, SIZES, {"alhpa": 1.0}, "did you mean alpha"),
        ({"N": SIZES}, SIZES, {"alpha": -1.0}, "alpha is fixed at -1"),
        ({"N": SIZES[None]}, SIZES, {}, "N has 2 dimensions"),
    ],
)
def test_what_cannot_be_fitted_is_named(x, loss, fixed, said):
    with pytest.raises(InputError, match=said) as raised:
        fit_scaling(Size(), x, loss, fixed=fixed)
    assert "\n" not in str(raised.value)


def test_delta_is_positive():
    with pytest.raises(InputError, match="delta is 0"):
        fit_scaling(Size(), {"N": SIZES}, SIZES, delta=0)
