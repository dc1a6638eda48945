import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from rankbound.errors import InputError
from rankbound.metrics import argmax_search
from rankbound.metrics.argmax_head import LinearHead
from rankbound.metrics.argmax_program import Combination, Program
from rankbound.metrics.argmax_sphere import SphereProgram
from rankbound.metrics.unargmaxable import find_unargmaxable


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def planted(vocab, width, count, seed=0):
    """Gaussian rows, the first `count` of them replaced by averages of all the others."""
    weight = normal(vocab, width, seed=seed)
    shares = torch.rand(count, vocab - count, generator=torch.Generator().manual_seed(seed + 1)).double()
    weight[:count] = shares / shares.sum(1, keepdim=True) @ weight[count:]
    return weight


def check_partition(report, vocab):
    kinds = [report.argmaxable, report.unargmaxable, report.off_sphere, report.undecided]
    assert torch.equal(torch.cat(kinds).sort().values, torch.arange(vocab))
    assert sum(map(len, report.settled.values())) == vocab - len(report.undecided)


def check_certificates(report, weight, bias=None, norm="free", gain=None, shift=None):
    """In NumPy, from the head's own numbers."""
    weight = weight.double().numpy()
    size = weight.shape[1]
    bias = np.zeros(len(weight)) if bias is None else bias.double().numpy()
    gain = np.ones(size) if gain is None else gain.double().numpy()
    shift = np.zeros(size) if shift is None else shift.double().numpy()
    for token, state in report.winning_states.items():
        logits = weight @ state.numpy() + bias
        assert (np.delete(logits, token) < logits[token]).all()
        if norm != "free":
            inner = (state.numpy() - shift) / gain
            assert np.linalg.norm(inner) == pytest.approx(math.sqrt(size))
        if norm == "layernorm":
            assert inner.mean() == pytest.approx(0, abs=1e-9)
    rows, biases = weight * gain, bias + weight @ shift
    if norm == "layernorm":
        rows = rows - rows.mean(1, keepdims=True)
    longest = np.linalg.norm(rows, axis=1).max() + np.abs(biases).max()
    assert set(report.combinations) == {*report.unargmaxable.tolist(), *report.off_sphere.tolist()}
    for token, found in report.combinations.items():
        assert token not in found.tokens
        assert (found.weights >= 0).all()
        assert found.weights.sum() == pytest.approx(1, abs=1e-12)
        away = np.linalg.norm(rows[token] - found.weights @ rows[found.tokens])
        above = biases[token] - found.weights @ biases[found.tokens]
        if token in report.settled["ball"]:
            assert math.sqrt(size) * away + above <= 1e-9 * longest
        elif token in report.settled["simplex"]:
            assert away <= 2e-9 * longest
            assert above > 0  # wins somewhere, and there within the radius: see the test of the simplex
        else:
            assert away <= 2e-9 * longest
            assert above <= 2e-9 * longest


@pytest.mark.parametrize("steps", [0, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_in_the_plane_the_argmaxable_tokens_are_the_hulls_corners(dtype, steps, monkeypatch):
    monkeypatch.setattr(argmax_search, "PERCEPTRON_STEPS", steps)
    weight = normal(40, 2, dtype=dtype) + 3
    report = find_unargmaxable(weight)
    corners = ConvexHull(weight.double().numpy()).vertices
    assert report.argmaxable.tolist() == sorted(corners.tolist())
    check_partition(report, 40)
    check_certificates(report, weight)
    assert not len(report.undecided)


@settings(deadline=None, max_examples=15)
@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 999))
def test_in_any_space_they_are_the_hulls_vertices(extra, width, seed):
    weight = normal(width + extra, width, seed=seed)
    report = find_unargmaxable(weight)
    assert report.argmaxable.tolist() == sorted(ConvexHull(weight.numpy()).vertices.tolist())
    check_certificates(report, weight)


@pytest.mark.parametrize("steps", [0, 300])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_bias_lifts_the_hull_by_a_dimension(size, steps, monkeypatch):
    monkeypatch.setattr(argmax_search, "PERCEPTRON_STEPS", steps)
    weight, bias = normal(40, 2), size * normal(40, seed=1)
    report = find_unargmaxable(weight, bias)
    points = torch.cat([weight, bias[:, None] / size], 1).numpy()
    hanging = points - [0, 0, 100]  # below everything: only the upper hull keeps its vertices
    upper = ConvexHull(np.concatenate([points, hanging])).vertices
    assert report.argmaxable.tolist() == sorted(upper[upper < 40].tolist())
    assert len(report.argmaxable) > len(ConvexHull(weight.numpy()).vertices)
    check_partition(report, 40)
    check_certificates(report, weight, bias)


def test_a_constant_bias_changes_nothing():
    weight = planted(60, 3, 4)
    plain, raised = find_unargmaxable(weight), find_unargmaxable(weight, torch.full((60,), 0.7))
    assert torch.equal(plain.argmaxable, raised.argmaxable)


def test_planted_tokens_are_found_and_nothing_else():
    weight = planted(400, 64, 3)
    for dtype in (torch.float64, torch.float32):
        report = find_unargmaxable(weight.to(dtype), states=normal(100, 64, seed=5))
        # rounding to float32 moves a row by 1e-8 of its length, far from the hull's boundary
        assert report.unargmaxable.tolist() == [0, 1, 2]
        assert len(report.argmaxable) == 397
        check_certificates(report, weight.to(dtype))


def test_gaussian_heads_have_none():
    report = find_unargmaxable(normal(400, 64, dtype=torch.float32))
    assert len(report.argmaxable) == 400
    assert len(report.settled["row"]) == 400


def test_a_head_of_falling_norms_and_a_common_mean_needs_more_than_the_rows():
    weight = normal(300, 16) * torch.arange(1, 301)[:, None] ** -0.3 + normal(16, seed=1)
    report = find_unargmaxable(weight)
    assert len(report.settled["row"]) < 100
    assert min(len(report.settled[name]) for name in ("centred", "leverage", "perceptron")) > 0
    assert not len(report.undecided)
    check_certificates(report, weight)


def circle(head, norm, gain, shift):
    """Every winner over states on a circle: a norm's outputs in two dimensions."""
    angles = torch.linspace(0, 2 * math.pi, 300_001, dtype=torch.float64)
    around = torch.stack([angles.cos(), angles.sin()], 1)
    if norm == "layernorm":
        plane = torch.tensor([[1.0, -1, 0], [1, 1, -2]], dtype=torch.float64)
        around = around @ torch.nn.functional.normalize(plane, dim=1)
    weight, bias = head
    states = math.sqrt(weight.shape[1]) * around * gain + shift
    return set((states @ weight.T + bias).argmax(1).tolist())


@pytest.mark.parametrize("steps", [0, 300])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_behind_a_norm_with_a_bias_winners_are_those_on_the_sphere(norm, scale, steps, monkeypatch):
    monkeypatch.setattr(argmax_search, "PERCEPTRON_STEPS", steps)
    width = 2 if norm == "rmsnorm" else 3
    weight, bias = scale * normal(50, width), normal(50, seed=1)
    gain, shift = (
        1 + 0.5 * torch.rand(width, generator=torch.Generator().manual_seed(2)),
        normal(width, seed=3),
    )
    report = find_unargmaxable(weight, bias, norm=norm, gain=gain, shift=shift)
    assert set(report.argmaxable.tolist()) == circle((weight, bias), norm, gain, shift)
    assert len(report.undecided) <= 5  # regions within the sphere whose simplex is not
    check_partition(report, 50)
    check_certificates(report, weight, bias, norm, gain, shift)
    if scale < 1:
        assert len(report.settled["ball"])  # the biases rule: some would win only for longer states


def test_a_token_that_wins_only_near_zero_is_off_the_sphere():
    corners = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    bias = torch.tensor([0.0, 0.0, 0.0, 0.1])
    assert find_unargmaxable(corners, bias).argmaxable.tolist() == [0, 1, 2, 3]
    report = find_unargmaxable(corners, bias, norm="rmsnorm")
    assert report.argmaxable.tolist() == [0, 1, 2]
    assert report.off_sphere.tolist() == report.settled["simplex"].tolist() == [3]
    assert sorted(report.combinations[3].tokens.tolist()) == [0, 1, 2]
    check_certificates(report, corners, bias, "rmsnorm")


@pytest.mark.parametrize("radius", [0.9, 1.1])
def test_a_simplex_proves_only_what_its_corners_say(radius):
    around = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]).double()
    # token 3 at the centre wins within the triangle of edges at distance 1/2 from 0: its corners are at 1
    rows = torch.cat([around, torch.zeros(1, 2)]).numpy()
    rows = np.concatenate([rows, [[0.0], [0.0], [0.0], [0.5]]], axis=1)
    sphere = SphereProgram(rows, radius)
    thirds = Combination(np.array([0, 1, 2]), np.full(3, 1 / 3))
    assert sphere.too_long(3, thirds) == (radius > 1)
    assert not sphere.too_long(3, Combination(np.array([0, 1, 2]), np.array([0.5, 0.25, 0.25])))
    found = sphere.on_sphere(3, np.array([0.0, 0.0, 1.0]), time.monotonic() + 10)
    if radius > 1:
        assert found[0] == "simplex"
    else:  # the sphere cuts the triangle only near its corners
        assert sphere.wins(3, found)
        assert np.linalg.norm(found[:2]) == pytest.approx(radius * found[2])


def test_a_layernorm_takes_a_dimension_from_the_rows():
    weight = normal(30, 3)
    report = find_unargmaxable(weight, norm="layernorm")
    flat = torch.stack([weight[:, 0] - weight[:, 1], weight[:, 0] + weight[:, 1] - 2 * weight[:, 2]], 1)
    assert report.argmaxable.tolist() == sorted(ConvexHull(flat.numpy()).vertices.tolist())
    assert not len(report.off_sphere)
    check_certificates(report, weight, norm="layernorm")


def test_without_a_bias_an_rmsnorm_changes_only_the_gain():
    weight, gain = normal(60, 3), torch.tensor([1.0, 0.5, 2.0])
    behind = find_unargmaxable(weight, norm="rmsnorm", gain=gain)
    assert torch.equal(behind.argmaxable, find_unargmaxable(weight).argmaxable)
    flat = find_unargmaxable(weight, norm="rmsnorm", gain=torch.tensor([1.0, 0.5, 0.0]))
    assert flat.argmaxable.tolist() == sorted(ConvexHull(weight[:, :2].numpy()).vertices.tolist())


@pytest.mark.parametrize("steps", [0, 300])
def test_the_shortest_winning_state_is_found_or_proved_too_long(steps, monkeypatch):
    monkeypatch.setattr(argmax_search, "PERCEPTRON_STEPS", steps)
    weight, bias = 0.1 * normal(150, 12), normal(150, seed=1)
    report = find_unargmaxable(weight, bias, norm="layernorm")
    assert not len(report.undecided)
    assert len(report.off_sphere) > 20
    check_partition(report, 150)
    check_certificates(report, weight, bias, "layernorm")


def test_tokens_of_one_row_never_win_alone():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    report = find_unargmaxable(weight)
    assert report.unargmaxable.tolist() == report.settled["repeated"].tolist() == [0, 1]
    check_certificates(report, weight)
    bias = torch.tensor([0.5, 0.4, 0.0, 0.0])
    report = find_unargmaxable(weight, bias)
    assert report.unargmaxable.tolist() == [1]  # the higher bias wins for the row
    check_certificates(report, weight, bias)
    assert len(find_unargmaxable(torch.zeros(5, 3)).unargmaxable) == 5
    assert find_unargmaxable(torch.zeros(4, 3), torch.arange(4.0)).argmaxable.tolist() == [3]


def test_a_point_on_an_edge_only_ties():
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, -1.0]])
    report = find_unargmaxable(weight)
    assert report.unargmaxable.tolist() == [2]
    check_certificates(report, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_below_float32_are_told_apart(dtype):
    weight = normal(40, 2, dtype=dtype) * 1e-4 + 100
    report = find_unargmaxable(weight)
    # float32 scores around 1e4 step by 1e-3, these differ by 1e-2 and less
    assert report.argmaxable.tolist() == sorted(ConvexHull(weight.double().numpy()).vertices.tolist())
    assert not len(report.undecided)


def test_a_margin_within_float32s_error_is_settled_in_float64():
    angles = torch.arange(6000, dtype=torch.float64) * (2 * math.pi / 6000)
    head = LinearHead(torch.stack([angles.cos(), angles.sin()], 1))
    search = argmax_search.Search(head, torch.float32)
    tokens = torch.arange(0, 5999, 30)
    # a row leads its neighbours by 5e-7 at itself, by nothing halfway to the next
    assert 0 < (head.rows[0] @ (head.rows[0] - head.rows[1])).item() < 6 * torch.finfo(torch.float32).eps
    assert search.ahead(head.rows[tokens], tokens).all()
    assert not search.ahead(head.rows[tokens] + head.rows[tokens + 1], tokens).any()


def test_without_time_what_the_passes_leave_is_undecided():
    weight = planted(200, 8, 5)
    report = find_unargmaxable(weight, seconds=0)
    assert set(range(5)) <= set(report.undecided.tolist())
    assert not len(report.unargmaxable)
    assert sum(len(report.settled[name]) for name in ("row", "centred", "leverage")) == 200 - len(
        report.undecided
    )
    assert report.counts()["undecided"] == len(report.undecided)
    check_partition(report, 200)
    assert find_unargmaxable(weight).unargmaxable[:5].tolist() == [0, 1, 2, 3, 4]


def test_a_program_out_of_time_gives_no_answer():
    program = Program(planted(400, 64, 1).numpy(), lifted=False)
    assert program.separate(0, program.rows[0], deadline=-1.0) is None
    assert program._widest_margin(normal(300, 60).numpy(), seconds=1e-6) is None


def test_no_combination_is_believed_without_a_check():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    program = Program(rows, lifted=False)
    halves = np.array([0.5, 0.5])
    assert program.loses(0, Combination(np.array([1, 2]), halves))
    assert not program.loses(0, Combination(np.array([1, 3]), halves))
    assert not program.loses(0, Combination(np.array([1, 2]), halves + 0.1))
    assert not program.loses(0, Combination(np.array([1, 2, 3]), np.array([1.5, 0.5, -1.0])))
    assert not program.loses(3, Combination(np.array([3]), np.array([1.0])))
    assert not program.wins(0, np.array([0.0, 1.0]))
    assert program.wins(3, np.array([0.0, 1.0]))


def test_given_states_settle_their_strict_argmaxes():
    weight, bias = normal(50, 4, dtype=torch.float32), normal(50, seed=1, dtype=torch.float32)
    states = 3 * normal(500, 4, seed=2, dtype=torch.float32)
    report = find_unargmaxable(weight, bias, states=states)
    winners = (states @ weight.T + bias).argmax(1).unique()
    assert torch.equal(report.settled["states"], winners)
    tied = find_unargmaxable(weight, states=torch.zeros(3, 4))
    assert not len(tied.settled["states"])


def test_leaves_the_precision_of_products_and_gradients_alone():
    torch.set_float32_matmul_precision("high")
    weight = torch.nn.Parameter(normal(20, 2, dtype=torch.float32))
    find_unargmaxable(weight)
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    assert weight.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.tensor([[1.0, math.nan], [0.0, 1.0]])}, "weight has values"),
        ({"weight": torch.eye(2), "bias": torch.tensor([0.0, math.inf])}, "bias has values"),
        ({"weight": torch.ones(3)}, "weight has shape"),
        ({"weight": torch.ones(1, 3)}, "two tokens"),
        ({"weight": torch.ones(0, 3)}, "two tokens"),
        ({"weight": torch.eye(3), "bias": torch.ones(2)}, "bias has shape"),
        ({"weight": torch.eye(3), "states": torch.ones(2, 4)}, "states has shape"),
        ({"weight": torch.eye(3), "states": torch.ones(3)}, "states has shape"),
        ({"weight": torch.eye(3), "gain": torch.ones(3)}, "belong to a norm"),
        ({"weight": torch.eye(3), "norm": "rmsnorm", "gain": torch.ones(2)}, "gain has shape"),
        ({"weight": torch.eye(3), "norm": "batchnorm"}, "norm is 'batchnorm'"),
        ({"weight": torch.ones(3, 1), "norm": "layernorm"}, "one dimension"),
    ],
)
def test_bad_input_is_named_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        find_unargmaxable(**arguments)
    assert "\n" not in str(caught.value)


def test_no_states_are_no_evidence():
    report = find_unargmaxable(normal(20, 2), states=torch.zeros(0, 2))
    assert not len(report.settled["states"])


def test_rows_behind_a_layernorm_keep_their_inner_products():
    weight, gain, bias = normal(10, 5), 1 + torch.rand(5).double(), normal(10, seed=1)
    head = LinearHead(weight, bias, "layernorm", gain)
    inner = normal(5, seed=2)
    inner = (inner - inner.mean()) / inner.std(correction=0)
    direction = torch.randn(5).double()
    state = head.state(head.allowed(direction), 0)
    scores = head.rows @ head.allowed(direction) / head.allowed(direction)[-1] / head.scale
    logits = weight @ state + bias
    torch.testing.assert_close(scores - scores.mean(), logits - logits.mean())
