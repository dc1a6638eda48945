"""The head probe: what it wins of a headroom that is known, and when it says that it cannot tell."""

import math

import pytest
import torch

from rankbound import InputError
from rankbound.analysis.clusters import three_parts
from rankbound.analysis.decomposition import decompose, moments
from rankbound.analysis.headroom import Search, headroom
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_search import Control, Probe
from rankbound.analysis.probe_training import Schedule, Setting, train
from rankbound.analysis.readout import Readout
from rankbound.corpora.languages.floor_problem import Problem as FloorProblem
from rankbound.corpora.languages.known_rank import KnownRank

V, D, CONTEXTS = 24, 4, 12
FAST = {"rates": (0.03,), "penalties": (0.3,), "minutes": 5.0}


def made(bent: float, tokens: int, seed: int = 0):
    """States of a few contexts; the truth is the head and `bent` times what no linear head writes."""
    torch.manual_seed(seed)
    state = torch.randn(CONTEXTS, D)
    readout = Readout(torch.randn(V, D))
    truth = readout.logits(state)
    basis = torch.cat([state, torch.ones(CONTEXTS, 1)], 1)
    away = torch.randn(CONTEXTS, V)
    away = away - basis @ torch.linalg.lstsq(basis, away).solution
    truth = (truth + bent * away).log_softmax(1)
    context = torch.randint(0, CONTEXTS, (tokens,))
    target = torch.distributions.Categorical(logits=truth[context]).sample()
    return InMemory(state[context]), readout, target, torch.arange(tokens) // 25, (state, truth)


def test_wins_back_what_a_linear_correction_cannot():
    states, readout, target, document, (state, truth) = made(1.0, 12_000)
    search = Search(("expanded",), 600, (0.03,), (1.0,), epochs=15, batch=256, minutes=1e3, control_rank=1)
    said = []
    found = headroom(states, readout, target, document, search, say=said.append)
    gap = (truth.exp() * (truth - readout.logits(state).log_softmax(1))).sum(1).mean()
    left = float(gap) - found.adaptation.mean
    assert "The probe takes about" in said[0]
    assert found.told
    assert found.found
    assert 0.4 * left < found.gain.mean < left + found.gain.half_width
    assert found.kind == "expanded"
    assert abs(found.planted.mean * found.power.mean - found.gain.mean) < 0.3 * found.planted.mean, found
    assert [point.tokens for point in found.curve] == sorted(point.tokens for point in found.curve)
    assert found.curve[-1].gain == found.gain
    assert max(found.parameters) <= 600
    assert sum(found.tokens) == 12_000


def best_head(language, width):
    """States of all contexts, the best linear head with a bias on them, and its exact loss."""
    weight, log_prob = (tensor.numpy() for tensor in language.contexts())
    problem = FloorProblem(weight, log_prob)
    point = problem.descend(problem.weighted_svd(width, True), 400).point
    state = torch.from_numpy(point.states / weight[:, None] ** 0.5).float()
    scale = torch.from_numpy((weight[:, None] * language.log_prob.exp().numpy()).sum(0) ** 0.5)
    matrix, bias = torch.from_numpy(point.tokens) / scale[:, None], torch.from_numpy(point.bias) / scale
    readout = Readout(matrix.float(), bias.float())
    return state, readout, language.cross_entropy(readout.logits(state).log_softmax(1))


@pytest.mark.parametrize(("rank", "share"), [(10, 1.0), (4, 1.0), (10, 0.0001)])
def test_on_a_language_of_known_rank(rank, share):
    """Headroom is the known gap times power, none of a head that is wide enough, unknown of few tokens."""
    width, vocab_size = 3, 16
    language = KnownRank(vocab_size, rank, zipf=0.3, temperature=2.0)
    state, readout, loss = best_head(language, width)
    count, length = max(2, int(share * 300)), 64 if share == 1 else 2
    text = language.batch(0, count, length + 1)
    context, target = text[:, :-1].flatten(), text[:, 1:].flatten()
    document = torch.arange(len(target)) // length
    search = Search(("expanded",), 380, (0.03,), (1.0,), epochs=15, batch=256, minutes=1e3, control_rank=2)
    found = headroom(InMemory(state[context]), readout, target, document, search)
    assert found.told == (share == 1)
    if found.told:
        gap = loss - language.entropy
        error = (
            math.hypot(found.gain.half_width, gap * found.power.half_width) if found.gain.error > 0 else 0
        )
        assert abs(found.gain.mean - gap * found.power.mean) <= error + 1e-4
        assert found.found == (rank > width + 1)


def test_nothing_to_win_where_the_head_is_the_truth():
    states, readout, target, document, _ = made(0.0, 4000)
    search = Search(candidates=("mixture",), parameters=300, epochs=4, batch=256, **FAST)
    found = headroom(states, readout, target, document, search)
    assert not found.found
    assert abs(found.gain.mean) <= (found.gain.half_width if found.gain.error > 0 else 0)


def test_cannot_tell_with_little_text():
    states, readout, target, document, _ = made(1.0, 40)
    found = headroom(states, readout, target, document, Search())
    assert not found.told
    assert "too little text" in found.cannot
    more = made(1.0, 300)
    found = headroom(*more[:4], Search(epochs=5, **FAST))
    assert not found.cannot
    assert not found.told


class Costly(InMemory):
    """States that cost time on a clock of their own, by row, and more from a moment on."""

    def __init__(self, states, slow_after):
        super().__init__(states.take(torch.arange(len(states))))
        self.time, self.slow_after = 0.0, slow_after

    def take(self, rows):
        self.time += len(rows) * (2e-4 if self.time < self.slow_after else 6e-4)
        return super().take(rows)


@pytest.mark.parametrize("slow_after", [float("inf"), 3.0])
def test_the_time_is_kept(slow_after):
    """On a machine that stays as fast as it was timed, and on one that slows down."""
    states, readout, target, document, _ = made(1.0, 2000)
    states, told, said = Costly(states, slow_after), [], []
    search = Search(("expanded",), rates=(0.03,), penalties=(1.0,), minutes=0.2, epochs=1e6)
    sinks = {"say": said.append, "progress": told.append}
    found = headroom(states, readout, target, document, search, **sinks, now=lambda: states.time)
    assert f"about {found.planned_seconds:.0f} seconds of the 0.2 minutes" in said[0]
    assert 8 < found.planned_seconds <= 12
    assert found.seconds <= 12
    if slow_after > 12:
        assert "29% less if one control is enough" in said[0]
        assert found.seconds == pytest.approx(found.planned_seconds * (1 - 0.29), rel=0.1)
    assert told[-1] == 1
    assert told == sorted(told)


def test_planted_truth_is_drawn_from_and_no_linear_head_writes_it():
    torch.manual_seed(0)
    hidden = torch.randn(20_000, 6).double()
    readout = Readout(torch.randn(15, 6).double(), torch.randn(15).double())
    rows = torch.arange(len(hidden))
    found = decompose(readout, moments(InMemory(hidden), rows))
    planted = Planted(found, 2)
    logits = planted.logits(hidden)
    target, nats = planted.drawn(InMemory(hidden), rows, len(hidden))
    own = -logits.log_softmax(1).gather(1, target[:, None]).squeeze(1)
    assert torch.allclose(own.float(), nats, atol=1e-5)
    entropy = torch.special.entr(logits.softmax(1)).sum(1).mean()
    assert float(own.mean()) == pytest.approx(float(entropy), abs=0.03)
    share = torch.bincount(target, minlength=15) / len(target)
    assert torch.allclose(share.double(), logits.softmax(1).mean(0), atol=0.015)
    lost = logits - planted.readout.raw(hidden)
    basis = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
    left = lost - basis @ torch.linalg.lstsq(basis, lost).solution
    assert left.square().mean() > 0.8 * lost.square().mean()
    assert torch.linalg.matrix_rank(planted.readout.weight) == 2


@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_what_is_planted_has_the_size_asked_for(soft_cap):
    torch.manual_seed(0)
    hidden = torch.randn(2000, 6)
    states, rows = InMemory(hidden), torch.arange(2000)
    readout = Readout(torch.randn(15, 6), None if soft_cap else torch.randn(15), soft_cap)
    planted = Planted(decompose(readout, moments(states, rows)), 2)
    for nats in (0.003, 0.1):
        sized = planted.of_loss(nats, states, rows)
        cut, truth = (head.logits(hidden).double().log_softmax(1) for head in (sized.readout, sized))
        lost = (truth.exp() * (truth - cut)).sum(1)
        assert float(lost.mean()) == pytest.approx(nats, rel=0.1)
        assert sized.loss(states, rows) == pytest.approx(float(lost.mean()), rel=1e-3)
    assert planted.loss(states, rows) > 0.2


@pytest.mark.parametrize(("power", "sizes"), [(0.8, [0.125]), (0.5, [0.125, 0.1625])])
def test_a_control_far_from_the_size_of_the_headroom_is_made_again(power, sizes, monkeypatch):
    asked = []

    def control(self, problem, nats, start, stop):
        asked.append(nats)
        return Control(Estimate(nats, 0.001, 9), Estimate(power, 0.01, 9), None)

    monkeypatch.setattr(Probe, "control", control)
    monkeypatch.setattr(Probe, "sized", lambda self, problem, planted, nats: nats)
    probe = Probe(None, Search(), 1, None, None)
    found = probe.sized_control(None, 1.0, Estimate(0.1, 0.01, 9))
    assert asked == pytest.approx(sizes)
    assert found.planted.mean == asked[-1]
    asked.clear()
    probe.sized_control(None, 1.0, Estimate(0.01, 0.01, 9))
    assert asked == [1.0]


def trained(settings, schedule, tokens=2000, **of):
    states, readout, target, document, _ = made(1.0, tokens)
    fit, choose, _, place = three_parts(document)
    problem = Problem(states, readout, target, moments(states, fit))
    return train(problem, settings, 200, fit, choose, place[document], schedule, **of)


def test_training_together_is_training_alone():
    settings = [Setting("expanded", 0.02, 1.0), Setting("linear", 0.01, 0.1), Setting("mixture", 0.02, 0.1)]
    together = trained(settings, Schedule(20, 100))
    alone = trained(settings[1:2], Schedule(20, 100))[0]
    assert torch.allclose(together[1].best, alone.best, atol=1e-6)
    assert together[1].trace == pytest.approx(alone.trace)


def test_a_strong_penalty_keeps_the_head_and_step_0_may_win():
    held, free = trained(
        [Setting("expanded", 0.02, 1e7), Setting("expanded", 0.02, 0.0)], Schedule(30, 100)
    )
    moved = [float((one.correction.values - one.correction.start).norm()) for one in (held, free)]
    assert moved[0] < 0.2 * moved[1]
    wild = trained([Setting("linear", 50.0, 0.0)], Schedule(3, 50))[0]
    assert wild.step == 0
    assert torch.equal(wild.best, wild.correction.start)


def test_a_share_sees_its_documents_alone():
    """With the others' targets replaced, a half trains the same."""
    states, readout, target, document, _ = made(1.0, 2000)
    fit, choose, _, place = three_parts(document)
    place = place[document]
    changed = torch.where(place < 0.5, target, 0)
    found = []
    for labels in (target, changed):
        problem = Problem(states, readout, labels, moments(states, fit))
        kept = torch.where(torch.isin(torch.arange(2000), fit), labels, target)
        problem.target = kept
        settings = [Setting("expanded", 0.02, 1.0, 0.5), Setting("expanded", 0.02, 1.0)]
        found.append(train(problem, settings, 200, fit, choose, place, Schedule(10, 200)))
    assert torch.allclose(found[0][0].correction.values, found[1][0].correction.values)
    assert not torch.allclose(found[0][1].correction.values, found[1][1].correction.values)


def test_settings_out_of_range_are_named():
    with pytest.raises(InputError, match="minutes are 0"):
        Search(minutes=0)
    with pytest.raises(InputError, match="candidates"):
        Search(candidates=("linear",))
    states, readout, target, document, _ = made(1.0, 400)
    with pytest.raises(InputError, match="control_rank is 4"):
        headroom(states, readout, target, document, Search(control_rank=4))
