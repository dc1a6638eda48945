"""The head probe: what it wins of a headroom that is known, and when it says that it cannot tell."""

import time

import pytest
import torch

from rankbound import InputError
from rankbound.analysis.clusters import three_parts
from rankbound.analysis.headroom import Search, headroom
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_training import Problem, Schedule, Setting, train
from rankbound.analysis.rank_cuts import decompose, moments
from rankbound.analysis.readout import Readout

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
    states, readout, target, document, (state, truth) = made(1.0, 6000)
    search = Search(candidates=("expanded",), parameters=800, epochs=30, batch=256, **FAST)
    said = []
    found = headroom(states, readout, target, document, search, say=said.append)
    gap = (truth.exp() * (truth - readout.logits(state).log_softmax(1))).sum(1).mean()
    assert "The probe takes about" in said[0]
    assert found.told
    assert found.found
    assert 0.4 * gap < found.gain.mean < gap
    assert found.kind == "expanded"
    assert [point.tokens for point in found.curve] == sorted(point.tokens for point in found.curve)
    assert found.curve[-1].gain == found.gain
    assert max(found.parameters) <= 800
    assert sum(found.tokens) == 6000


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


def test_the_time_is_kept():
    states, readout, target, document, _ = made(1.0, 20_000)
    begun = time.monotonic()
    told = []
    search = Search(minutes=0.05, epochs=1e6)
    found = headroom(states, readout, target, document, search, progress=told.append)
    assert found.planned_seconds <= 3.5
    assert time.monotonic() - begun < 20  # a deadline, not a speed: without it this takes days
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
    assert left.square().mean() > 0.7 * lost.square().mean()
    assert torch.linalg.matrix_rank(planted.readout.weight) == 2


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
