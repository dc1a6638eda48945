"""The body against `transformers`, and what a causal decoder must keep."""

import pytest
import torch
from torch import nn

from rankbound import InputError
from rankbound.model import GPT, RotaryScaling
from rankbound.model.attention import causal_attention

transformers = pytest.importorskip("transformers")


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.1, std=0.3)
    return model.eval()


TOKENS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("parallel", "rotary_pct"), [(True, 0.25), (False, 1.0), (True, 0.5)])
def test_equals_gpt_neox(parallel, rotary_pct):
    config = transformers.GPTNeoXConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        use_parallel_residual=parallel,
        hidden_act="gelu",
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": rotary_pct,
        },
    )
    theirs = randomised(transformers.GPTNeoXModel(config))
    ours = GPT(
        50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        parallel_residual=parallel,
        rotary_pct=rotary_pct,
    ).eval()
    names = {
        "embed_in": "embedding",
        "layers": "blocks",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
        "attention.query_key_value": "attention.query_key_value",
        "attention.dense": "attention.out",
        "mlp.dense_h_to_4h": "feed_forward.inner",
        "mlp.dense_4h_to_h": "feed_forward.out",
        "final_layer_norm": "final_norm",
    }
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "query_key_value" in name:  # theirs: (head, three, size) rows; ours: (three, head, size)
            value = value.unflatten(0, (4, 3, 8)).transpose(0, 1).flatten(0, 2)
        state[name] = value
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(TOKENS, output_hidden_states=True)
        assert torch.allclose(ours(TOKENS), expected.last_hidden_state, atol=1e-5)
        for layer in (0, 1):
            assert torch.allclose(ours.layers(TOKENS)[str(layer)], expected.hidden_states[layer], atol=1e-4)


def test_equals_llama():
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        rms_norm_eps=1e-5,
        attention_bias=False,
    )
    theirs = randomised(transformers.LlamaModel(config))
    ours = GPT(
        50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        norm="rmsnorm",
        activation="swiglu",
        parallel_residual=False,
        rotary_pct=1.0,
        use_bias=False,
    ).eval()
    source = theirs.state_dict()
    state = {"embedding.weight": source["embed_tokens.weight"], "final_norm.weight": source["norm.weight"]}
    for i in range(2):
        old, new = f"layers.{i}.", f"blocks.{i}."
        parts = [source[f"{old}self_attn.{p}_proj.weight"] for p in "qkv"]
        state[new + "attention.query_key_value.weight"] = torch.cat(parts)
        state[new + "attention.out.weight"] = source[old + "self_attn.o_proj.weight"]
        gate_inner = [source[f"{old}mlp.{p}_proj.weight"] for p in ("gate", "up")]
        state[new + "feed_forward.gate_inner.weight"] = torch.cat(gate_inner)
        state[new + "feed_forward.out.weight"] = source[old + "mlp.down_proj.weight"]
        state[new + "attention_norm.weight"] = source[old + "input_layernorm.weight"]
        state[new + "feed_forward_norm.weight"] = source[old + "post_attention_layernorm.weight"]
    ours.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(ours(TOKENS), theirs(TOKENS).last_hidden_state, atol=1e-5)


VARIANTS = [
    {},
    {"norm": "rmsnorm", "activation": "swiglu", "parallel_residual": False, "use_bias": False},
    {"qk_norm": True, "rotary_pct": 0.0, "init": "gpt2"},
    {"num_key_value_heads": 1, "head_dim": 6, "attention_soft_cap": 3.0, "output_norm": "rmsnorm"},
    {"position_embeddings": "learned", "activation": "geglu_tanh", "embedding_scale": 2.0},
]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("length", [12, 300])
def test_no_state_sees_a_later_token(settings, length):
    torch.manual_seed(0)
    model = GPT(50, hidden_size=16, num_attention_heads=2, **settings).eval()
    tokens = torch.randint(0, 50, (1, length))
    changed = tokens.clone()
    changed[0, length // 2] = (changed[0, length // 2] + 1) % 50
    with torch.no_grad():
        difference = (model(tokens) - model(changed)).abs().sum(-1)[0]
    assert (difference[: length // 2] < 1e-5).all()
    assert (difference[length // 2 :] > 0).any()


@pytest.mark.parametrize("init", ["pythia", "gpt2"])
def test_initialisation_has_the_published_deviations(init):
    torch.manual_seed(0)
    model = GPT(2000, hidden_size=256, num_hidden_layers=3, init=init)
    inner, outer = (2 / (5 * 256)) ** 0.5, 2 / (3 * 256**0.5)
    if init == "gpt2":
        inner, outer = 0.02, 0.02 / 6**0.5
    block = model.blocks[0]
    assert model.embedding.weight.std().item() == pytest.approx(inner, rel=0.02)
    assert block.feed_forward.inner.weight.std().item() == pytest.approx(inner, rel=0.02)
    assert block.feed_forward.out.weight.std().item() == pytest.approx(outer, rel=0.02)
    assert block.attention.out.weight.std().item() == pytest.approx(outer, rel=0.02)
    assert (block.attention.query_key_value.bias == 0).all()
    assert (block.attention_norm.weight == 1).all()


@pytest.mark.parametrize("hidden_size", [8, 16, 32])
def test_small_heads_still_know_positions(hidden_size):
    torch.manual_seed(0)
    model = GPT(50, hidden_size=hidden_size, num_attention_heads=4).eval()
    tokens = torch.tensor([[3, 7, 9, 11]])
    swapped = tokens[:, [1, 0, 2, 3]]
    assert not torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-6)


def test_layers_end_in_what_forward_returns():
    model = GPT(50, hidden_size=16).eval()
    layers = model.layers(TOKENS)
    assert list(layers) == ["0", "1", "2", "head_input"]
    assert torch.equal(layers["head_input"], model(TOKENS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30}, "choose num_attention_heads from 1, 2, 3, 5, 6, 10, 15, 30"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"rotary_pct": 1.5}, "rotary_pct is 1.5"),
        ({"hidden_size": 8, "num_attention_heads": 8}, "no two dimensions to rotate"),
        ({"num_key_value_heads": 3}, "choose num_key_value_heads from 1, 2, 4"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"attention_soft_cap": 0.0}, "attention_soft_cap is 0.0; it must be positive"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        GPT(50, **settings)


def test_a_sequence_beyond_the_positions_is_refused():
    with pytest.raises(InputError, match="longer than max_position_embeddings = 8"):
        GPT(50, hidden_size=16, max_position_embeddings=8)(TOKENS)


@pytest.mark.parametrize("kind", ["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu", "silu"])
def test_activations_are_what_they_are_called(kind):
    torch.manual_seed(0)
    layer = GPT(50, hidden_size=8, num_attention_heads=2, activation=kind).blocks[0].feed_forward
    x = torch.randn(5, 8)
    maps = {
        "gelu": lambda z: z * torch.special.ndtr(z),
        "gelu_tanh": lambda z: z * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)),
        "relu": lambda z: z.clamp(min=0),
        "silu": lambda z: z * torch.sigmoid(z),
    }
    with torch.no_grad():
        if hasattr(layer, "gate_inner"):
            plain = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}[kind]
            gate, inner = layer.gate_inner(x).chunk(2, dim=-1)
            expected = layer.out(maps[plain](gate) * inner)
        else:
            expected = layer.out(maps[kind](layer.inner(x)))
        assert torch.allclose(layer(x), expected, atol=1e-6)


def test_biases_are_where_the_settings_say():
    def biases(**settings):
        model = GPT(50, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, **settings)
        names = ("attention.query_key_value", "attention.out", "feed_forward.out")
        return [dict(model.blocks[0].named_modules())[name].bias is not None for name in names]

    assert biases() == [True, True, True]
    assert biases(use_bias=False) == [False, False, False]
    assert biases(activation="swiglu") == [True, True, False]
    assert biases(use_bias=False, qkv_bias=True) == [True, False, False]
    assert biases(use_bias=False, feed_forward_bias=True, activation="swiglu") == [False, False, True]


def test_learned_positions_train():
    torch.manual_seed(0)
    model = GPT(50, hidden_size=16, rotary_pct=0.0, position_embeddings="learned")
    model(TOKENS).square().sum().backward()
    seen = model.position_embedding.weight.grad.abs().sum(1) > 0
    assert seen[:12].all()
    assert not seen[12:].any()


def test_shared_key_heads_are_repeated_ones():
    """Two queries a key head: the same as a body whose keys and values are written out twice."""
    torch.manual_seed(0)
    shared = GPT(50, hidden_size=16, num_key_value_heads=2).eval()
    whole = GPT(50, hidden_size=16).eval()
    state = shared.state_dict()
    for name in [name for name in state if "query_key_value" in name]:
        query, key, value = state[name].split((16, 8, 8))
        doubled = [part.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for part in (key, value)]
        state[name] = torch.cat((query, *doubled))
    whole.load_state_dict(state)
    for length in (12, 300):
        tokens = torch.randint(0, 50, (2, length))
        with torch.no_grad():
            assert torch.allclose(shared(tokens), whole(tokens), atol=1e-5)


def test_settings_are_what_was_given_and_what_follows():
    model = GPT(50, hidden_size=48, num_attention_heads=6, num_key_value_heads=2, activation="swiglu")
    worked_out = {"head_dim": 8, "intermediate_size": 192, "qkv_bias": True, "feed_forward_bias": False}
    assert worked_out.items() <= model.settings.items()
    again = GPT(**model.settings)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    "settings", [(0.0,), (2.0, 1.0), (2.0, 1.0, 4.0), (8.0, 4.0, 1.0, 64)], ids=lambda value: str(value)
)
def test_scalings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InputError, match="rotary_scaling"):
        RotaryScaling(*settings)


def test_attention_in_float64_is_computed_in_float64():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 9, 4, generator=generator, dtype=torch.float64)
    scores = (query @ key.mT / 2).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    found = causal_attention(query.requires_grad_(), key, value, dropout=0.0)
    assert torch.allclose(found, scores.softmax(-1) @ value, rtol=0, atol=1e-14)
