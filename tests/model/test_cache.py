"""A text read in parts, with what was read kept, is the text read at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.model import GPT, RotaryScaling

BODIES = [
    {},
    {"num_key_value_heads": 2, "norm": "rmsnorm", "activation": "swiglu", "parallel_residual": False},
    {"num_key_value_heads": 1, "head_dim": 6, "qk_norm": True, "rotary_pct": 1.0},
    {"rotary_pct": 0.0, "position_embeddings": "learned", "embedding_scale": 3.0},
    {"attention_soft_cap": 2.0, "output_norm": "rmsnorm", "num_key_value_heads": 2},
    {"rotary_scaling": RotaryScaling(4.0, 1.0, 4.0, 64)},
]


def body(settings, dtype=torch.float32) -> GPT:
    torch.manual_seed(0)
    made = GPT(50, hidden_size=16, max_position_embeddings=600, **settings).eval().to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(mean=0.05, std=0.3)
    return made


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", BODIES)
@pytest.mark.parametrize("parts", [[1] * 40, [30, 1, 1, 8], [5, 300, 1, 2, 64, 1]])
@torch.inference_mode()
def test_parts_are_the_whole(settings, parts):
    model, text = body(settings), tokens(2, sum(parts))
    cache = model.cache()
    read = [model(part, cache) for part in text.split(parts, dim=1)]
    assert cache.length == sum(parts)
    assert torch.allclose(torch.cat(read, dim=1), model(text), atol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.sampled_from(range(len(BODIES))))
@settings(max_examples=20, deadline=None)
def test_however_it_is_cut(parts, which):
    with torch.inference_mode():
        model, text = body(BODIES[which], torch.float64), tokens(1, sum(parts))
        cache = model.cache()
        read = [model(part, cache) for part in text.split(parts, dim=1)]
        assert torch.allclose(torch.cat(read, dim=1), model(text), atol=1e-9)


@torch.inference_mode()
def test_two_texts_do_not_mix():
    model = body({})
    first, second = tokens(2, 20).split(1)
    caches = model.cache(), model.cache()
    for text, cache in zip((first, second), caches, strict=True):
        model(text[:, :12], cache)
    assert torch.allclose(model(first[:, 12:], caches[0]), model(first)[:, 12:], atol=1e-5)
    assert torch.allclose(model(second[:, 12:], caches[1]), model(second)[:, 12:], atol=1e-5)


@torch.inference_mode()
def test_a_text_beyond_the_positions_is_refused():
    model = GPT(50, hidden_size=16, max_position_embeddings=8).eval()
    cache = model.cache()
    model(tokens(1, 6), cache)
    with pytest.raises(InputError, match="9 tokens is longer than max_position_embeddings = 8"):
        model(tokens(1, 3), cache)
