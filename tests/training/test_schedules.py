"""Schedules against their formulas; optimiser groups against the model's parameters."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.heads import all_heads
from rankbound.heads.linear import Linear
from rankbound.model import GPT
from rankbound.training.language_model import LanguageModel
from rankbound.training.optimizer import AdamW
from rankbound.training.schedules import Constant, Cosine, InverseSquareRoot, Schedule, WarmupStableDecay

SCHEDULES = [Constant, Cosine, InverseSquareRoot, WarmupStableDecay]


@pytest.mark.parametrize("cls", SCHEDULES)
@given(total=st.integers(1, 300), warmup=st.integers(0, 400), floor=st.floats(0, 1))
def test_every_schedule_warms_up_linearly_and_stays_between_floor_and_peak(cls, total, warmup, floor):
    schedule = cls(total, warmup_steps=warmup, floor=floor)
    factors = [schedule(step) for step in range(total)]
    for step, factor in enumerate(factors):
        if step < warmup:
            assert factor == pytest.approx((step + 1) / warmup)
        else:
            assert floor - 1e-12 <= factor <= 1 + 1e-12
    after = factors[warmup:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(after))


def test_ends_and_middles():
    assert Cosine(101, 0, 0.1)(50) == pytest.approx(0.55)
    assert Cosine(101, 1, 0.1)(100) == pytest.approx(0.1)
    assert WarmupStableDecay(100, 10, 0.0, decay_share=0.2)(79) == 1
    assert WarmupStableDecay(100, 10, 0.0, decay_share=0.2)(99) == 0
    assert WarmupStableDecay(100, 10, 0.0, decay_share=0.2)(89) == pytest.approx(0.5)
    assert InverseSquareRoot(10_000, 100, 0.0)(399) == pytest.approx(0.5)
    assert Constant(10, 2)(9) == 1


@pytest.mark.parametrize(
    "settings",
    [{"total_steps": 0}, {"total_steps": 9, "warmup_steps": -1}, {"total_steps": 9, "floor": 1.1}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError):
        Cosine(**settings)


def test_a_schedule_of_ones_own_needs_only_decay():
    class Linear_(Schedule):  # noqa: N801
        def decay(self, step):
            return 1 - self.progress(step, self.warmup_steps)

    assert Linear_(11, 0, 0.0)(5) == pytest.approx(0.5)


@pytest.mark.parametrize("cls", all_heads().values(), ids=all_heads())
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_one_group_and_decays_as_its_part_says(cls, tied):
    body = GPT(30, hidden_size=16, num_attention_heads=2)
    try:
        model = LanguageModel(body, cls, tie_word_embeddings=tied)
    except InputError:
        assert tied
        pytest.skip("cannot be tied")
    settings = AdamW(weight_decay=0.1, embedding_weight_decay=0.2, head_weight_decay=0.3)
    decay = {id(p): g["weight_decay"] for g in settings.groups(model) for p in g["params"]}
    assert (
        sum(len(g["params"]) for g in settings.groups(model)) == len(decay) == len(list(model.parameters()))
    )
    assert decay[id(model.body.embedding.weight)] == (0.3 if tied else 0.2)
    assert {decay[id(p)] for p in model.head.parameters() if p.ndim >= 2} == {0.3}
    assert {decay[id(p)] for p in model.parameters() if p.ndim < 2} == {0.0}
    assert decay[id(model.body.blocks[0].feed_forward.inner.weight)] == 0.1


def test_parameter_counts_add_up_and_a_tied_matrix_counts_once():
    body = GPT(30, hidden_size=8, num_attention_heads=2)
    untied, tied = LanguageModel(body, Linear), LanguageModel(body, Linear, tie_word_embeddings=True)
    assert untied.parameter_counts()["total"] == sum(p.numel() for p in untied.parameters())
    assert tied.parameter_counts() == untied.parameter_counts() | {
        "head": 0,
        "total": untied.parameter_counts()["total"] - 240,
    }


def test_language_model_gives_a_distribution_over_the_next_token():
    model = LanguageModel(GPT(30, hidden_size=8, num_attention_heads=2), Linear)
    log_prob = model(torch.zeros(2, 5, dtype=torch.int64))
    assert log_prob.shape == (2, 5, 30)
    assert torch.allclose(log_prob.exp().sum(-1), torch.ones(2, 5), atol=1e-5)
    assert math.isclose(log_prob.mean().item(), -math.log(30), rel_tol=0.3)
