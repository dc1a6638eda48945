"""Tokens one after another: against a loop over the model, at the end of its context, of two models."""

import pytest
import torch
from tests.pretrained.small import text_model

from rankbound.errors import InputError
from rankbound.pretrained.generate import generate
from rankbound.pretrained.generating import Continuation, Contrast, continued
from rankbound.pretrained.sampling import Sampling, choose


def made(own, prompt, sampling, count, stops=(), seed=0, cached=True):
    generator = torch.Generator().manual_seed(seed)
    next_token = Continuation(own.model, own.context, cached)
    return list(continued(prompt, next_token, sampling, count, stops, generator))


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(greedy=True), Sampling(0.8, 20, 0.9)])
def test_tokens_are_those_of_a_loop_over_the_whole_model(mixture, sampling):
    own = text_model(mixture)
    generator = torch.Generator().manual_seed(0)
    ids = [0, 5, 9]
    with torch.no_grad():
        for _ in range(20):
            ids.append(choose(own.model(torch.tensor([ids]))[0, -1], sampling, generator))
    for cached in (False, True):
        assert made(own, [0, 5, 9], sampling, 20, cached=cached) == ids[3:]


def test_reading_in_any_steps_gives_the_whole_models_probabilities():
    own = text_model(mixture=True)
    ids = torch.randint(320, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    ids = [i % own.model.head.vocab_size for i in ids]
    for cached in (False, True):
        reader = Continuation(own.model, own.context, cached)
        for length in (3, 4, 11, 12, 40):
            with torch.no_grad():
                expected = own.model(torch.tensor([ids[:length]]))[0, -1]
            torch.testing.assert_close(reader(ids[:length]), expected, rtol=1e-4, atol=1e-4)


def test_beyond_the_context_the_newer_half_is_read():
    own = text_model(context=10)
    prompt = list(range(1, 9))
    found = made(own, prompt, Sampling(greedy=True), 12, cached=True)
    assert found == made(own, prompt, Sampling(greedy=True), 12, cached=False)
    ids, first = list(prompt), 0
    with torch.no_grad():
        for token in found:
            if len(ids) - first > 10:
                first = len(ids) - 5
            assert token == int(own.model(torch.tensor([ids[first:]]))[0, -1].argmax())
            ids.append(token)
    assert first > 0


def test_a_prompt_longer_than_the_context_is_cut():
    own = text_model(context=10)
    assert len(made(own, list(range(25)), Sampling(greedy=True), 3)) == 3


def test_the_end_of_text_ends_it_and_is_not_shown():
    own = text_model()
    free = made(own, [0, 5], Sampling(greedy=True), 12)
    end = free[4]
    assert made(own, [0, 5], Sampling(greedy=True), 12, stops=(end,)) == free[: free.index(end)]


def test_two_models_are_weighed_at_every_token():
    first, second = text_model(seed=0), text_model(mixture=True, seed=1)
    both = Contrast(Continuation(first.model, 64), Continuation(second.model, 64), 0.3, -1.0)
    greedy = Sampling(greedy=True)
    found = list(continued([0, 5], both, greedy, 8, (), torch.Generator()))
    ids = [0, 5]
    with torch.no_grad():
        for token in found:
            p, q = (own.model(torch.tensor([ids]))[0, -1].exp() for own in (first, second))
            assert token == int((0.3 * p - q).argmax())
            ids.append(token)


def test_wrong_input_is_named():
    own = text_model()
    with pytest.raises(InputError, match="give a prompt"):
        made(own, [], Sampling(), 3)
    with pytest.raises(InputError, match="max_tokens is 0"):
        made(own, [0], Sampling(), 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**20}, "seed is 100000000000000000000"),
        ({"weight": 0.5}, "need a second model"),
        ({"other_weight": -0.5}, "need a second model"),
        ({"other_revision": "main"}, "need a second model"),
        ({"weight": 3.0, "other": "other"}, "a weight is 3.0"),
    ],
)
def test_wrong_settings_are_named_before_a_model_is_read(settings, said):
    with pytest.raises(InputError, match=said):
        generate("no-such-model", **settings)
