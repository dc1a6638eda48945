import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from rankbound.errors import InputError
from rankbound.metrics.circuits import attention_circuits
from rankbound.metrics.similarity import linear_cka
from rankbound.metrics.singular import singular_values
from rankbound.metrics.spectrum import proportional_effective_rank, singular_entropy
from rankbound.metrics.weights import (
    output_value,
    output_value_gradient,
    output_value_gradient_spectra,
    output_value_spectra,
    value_weight,
    weight_ranks,
)
from rankbound.model.attention import Attention

WIDTH, HEADS = 32, 4


def plain_per(matrix, count=None):
    """Proportional effective rank over the first `count` singular values, by NumPy's SVD."""
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)[:count]
    share = values[values > 0] / values.sum()
    return math.exp(-(share * np.log(share)).sum()) / len(values)


def randomised(model, seed=0):
    """All parameters at random: biases and norms too, so that nothing is 0 or 1 by luck."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def neox(seed=0):
    config = transformers.GPTNeoXConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_hidden_layers=2,
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=32,
    )
    return randomised(transformers.GPTNeoXForCausalLM(config), seed)


def gpt2():
    config = transformers.GPT2Config(n_embd=WIDTH, n_head=HEADS, n_layer=2, vocab_size=50, n_positions=32)
    return randomised(transformers.GPT2LMHeadModel(config))


def llama():
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=12,
        num_hidden_layers=2,
        intermediate_size=64,
        vocab_size=50,
    )
    return randomised(transformers.LlamaForCausalLM(config))


def attention_at_the_first_token(model, tokens, name):
    """What goes into and comes out of one attention module at position 0, which attends to itself alone."""
    seen = []

    def keep(_, arguments, keywords, output):
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        seen.append((hidden[:, 0], output[0][:, 0]))

    handle = model.get_submodule(name).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("make", [neox, gpt2, llama])
def test_the_circuit_found_is_what_attention_computes(make):
    model = make()
    circuits = attention_circuits(model)
    assert len(circuits) == 2
    for name, circuit in circuits.items():
        before, after = attention_at_the_first_token(model, torch.tensor([[3, 7], [11, 2], [40, 9]]), name)
        heads = output_value(*circuit)
        assert heads.shape == (HEADS, WIDTH, WIDTH)
        # differences between inputs, which biases cannot reach
        torch.testing.assert_close(after.diff(dim=0), before.diff(dim=0) @ heads.sum(0).T)


def test_each_head_found_is_that_head_of_attention():
    model = neox()
    name = "gpt_neox.layers.1.attention"
    circuit = attention_circuits(model)[name]
    heads = output_value(*circuit)
    tokens = torch.tensor([[3], [11]])
    dense = model.get_submodule(name).dense.weight
    whole = dense.detach().clone()
    for head in range(HEADS):
        kept = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        with torch.no_grad():
            dense.zero_()[:, kept] = whole[:, kept]
        before, after = attention_at_the_first_token(model, tokens, name)
        torch.testing.assert_close(after.diff(dim=0), before.diff(dim=0) @ heads[head].T)


def test_this_projects_attention_keeps_its_heads_in_thirds():
    module = Attention(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        use_bias=True,
        qkv_bias=True,
        qk_norm=None,
        norm_eps=1e-5,
        soft_cap=None,
        dropout=0.0,
    )
    randomised(module)
    (circuit,) = attention_circuits(module).values()
    hidden = torch.randn(5, 1, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = torch.ones(1, WIDTH // HEADS).double(), torch.zeros(1, WIDTH // HEADS).double()
    after = module(hidden, *still)[:, 0]
    torch.testing.assert_close(
        after.diff(dim=0), hidden[:, 0].diff(dim=0) @ output_value(*circuit).sum(0).T
    )


def test_the_last_third_of_rows_kept_by_head_is_not_the_value():
    fused = neox().gpt_neox.layers[0].attention.query_key_value.weight.detach()
    published = fused[-len(fused) // 3 :]
    value = value_weight(fused, HEADS, "per_head")
    assert value.shape == published.shape
    torch.testing.assert_close(
        value[-8:], published[-8:]
    )  # only the last head's values are where both look
    assert not torch.isclose(value[:-8], published[:-8]).any(1).all()
    # in a layout of thirds the published slice is right
    torch.testing.assert_close(value_weight(fused, HEADS, "three_heads"), published)


def test_modules_without_a_known_circuit_are_not_listed():
    model = nn.ModuleDict({"linear": nn.Linear(4, 4), "encoder": nn.TransformerEncoderLayer(4, 2)})
    assert attention_circuits(model) == {}
    odd = nn.Module()
    odd.query_key_value, odd.dense, odd.num_heads = nn.Linear(8, 16), nn.Linear(8, 8), 2  # shared keys
    assert attention_circuits(odd) == {}
    odd.query_key_value = nn.Linear(8, 24)
    assert list(attention_circuits(odd)) == [""]
    del odd.num_heads
    assert attention_circuits(odd) == {}


def test_a_named_layout_replaces_the_conventions():
    model = neox()
    name = "gpt_neox.layers.0.attention"
    fused = model.get_submodule(name).query_key_value.weight
    assert torch.equal(
        attention_circuits(model, layout="three_heads")[name].value_weight, fused[2 * WIDTH :]
    )


def factors(heads, groups, size, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(groups * size, width, generator=generator)
    return value, torch.randn(width, heads * size, generator=generator)


@pytest.mark.parametrize(
    ("heads", "groups", "size"), [(4, 4, 4), (4, 2, 4), (4, 1, 4), (2, 2, 20), (1, 1, 16)]
)
def test_spectra_equal_numpys_of_the_products(heads, groups, size):
    value, output = factors(heads, groups, size, 16)
    whole, each = output_value_spectra(value, output, heads, groups)
    v, o = value.double().numpy(), output.double().numpy()
    products = []
    for head in range(heads):
        group = head * groups // heads
        products.append(o[:, head * size : (head + 1) * size] @ v[group * size : (group + 1) * size])
    np.testing.assert_allclose(output_value(value, output, heads, groups).numpy(), products, atol=1e-12)
    expected = np.linalg.svd(sum(products), compute_uv=False)
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-12 * expected[0])
    assert each.shape == (heads, min(size, 16))
    for found, product in zip(each, products, strict=True):
        expected = np.linalg.svd(product, compute_uv=False)
        np.testing.assert_allclose(found.numpy(), expected[:size], atol=1e-12 * expected[0])


def test_the_gradient_is_the_product_rule():
    value, output = factors(4, 2, 4, 16)
    value_step, output_step = factors(4, 2, 4, 16, seed=1)
    arguments = (value, output, value_step, output_step, 4, 2)
    _, expected = torch.func.jvp(
        lambda v, o: torch.einsum(
            "dhe,hef->hdf", o.view(16, 4, 4), v.view(2, 4, 16).repeat_interleave(2, 0)
        ),
        (value.double(), output.double()),
        (value_step.double(), output_step.double()),
    )
    found = output_value_gradient(*arguments)
    torch.testing.assert_close(found, expected)
    whole, heads = output_value_gradient_spectra(*arguments)
    torch.testing.assert_close(whole, torch.linalg.svdvals(expected.sum(0)))
    torch.testing.assert_close(heads, torch.linalg.svdvals(expected)[:, :8])
    whole_product = output.double() @ value.double().view(2, 4, 16).repeat_interleave(2, 0).flatten(0, 1)
    torch.testing.assert_close(output_value(value, output, 4, 2).sum(0), whole_product)


def test_weight_ranks_cover_matrices_of_any_layer_once():
    model = gpt2()
    ranks = weight_ranks(model)
    assert "lm_head.weight" not in ranks  # tied to the embedding
    matrices = {n: p.detach() for n, p in model.named_parameters() if p.ndim == 2}
    assert set(ranks) == set(matrices)
    assert "transformer.h.0.attn.c_attn.weight" in ranks  # a Conv1D
    for name, found in ranks.items():
        assert found == pytest.approx(plain_per(matrices[name]), rel=1e-6)


def test_weights_that_are_zero_or_not_finite_have_a_defined_rank():
    layers = nn.ModuleDict({"zero": nn.Linear(3, 4), "nan": nn.Linear(3, 4), "row": nn.Linear(3, 1)})
    with torch.no_grad():
        layers["zero"].weight.zero_()
        layers["nan"].weight[0, 0] = math.inf
    ranks = weight_ranks(layers.bfloat16())
    assert ranks["zero.weight"] == 0
    assert math.isnan(ranks["nan.weight"])
    assert ranks["row.weight"] == 1
    value, output = factors(4, 4, 4, 16)
    value[0, 0] = math.nan  # of head 0
    whole, heads = output_value_spectra(value, output, 4)
    assert whole.isnan().all()
    assert heads.isnan().all(1).tolist() == [True, False, False, False]
    _, wide = output_value_spectra(torch.full((4, 2), math.inf), torch.ones(2, 4), 2)
    assert wide.isnan().all()
    whole, heads = output_value_spectra(torch.zeros(4, 4), torch.ones(4, 4).half(), 2)
    assert not whole.any()
    assert not heads.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: value_weight(torch.ones(10, 4), 2, "per_head"), "its rows must be 3 x 2"),
        (lambda: value_weight(torch.ones(12), 2, "per_head"), "fused_qkv has shape"),
        (lambda: value_weight(torch.ones(12, 4), 2, "thirds"), "layout is 'thirds'"),
        (lambda: output_value(torch.ones(4, 4), torch.ones(4, 4), 3), "do not fit 3 heads"),
        (lambda: output_value(torch.ones(4, 4), torch.ones(4, 4), 4, 3), "over 3 of values"),
        (lambda: output_value(torch.ones(4, 4), torch.ones(5, 4), 2), "do not fit"),
        (lambda: output_value(torch.ones(0, 4), torch.ones(4, 0), 2), "with entries"),
        (lambda: output_value(torch.ones(4), torch.ones(4, 4), 2), "must be matrices"),
        (
            lambda: output_value_gradient(*factors(2, 2, 4, 8), *factors(2, 2, 2, 8), 2),
            "another shape",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def last_token_states(model, tokens):
    with torch.no_grad():
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    return [layer[:, -1] for layer in states[1:]]


def test_the_published_figures_of_a_neox_checkpoint_come_from_one_call_each(tmp_path):
    neox(seed=0).save_pretrained(tmp_path / "step3000")
    neox(seed=1).save_pretrained(tmp_path / "step143000")
    load = transformers.GPTNeoXForCausalLM.from_pretrained
    early, final = (
        load(tmp_path / name, dtype=torch.float64).eval() for name in ("step3000", "step143000")
    )
    state = {name: weight.double().numpy() for name, weight in final.state_dict().items()}

    # Godey et al. 2024: singular entropy of the head
    head = final.get_output_embeddings().weight.detach()
    values = np.linalg.svd(head.numpy(), compute_uv=False)
    share = values / values.sum()
    expected = math.log(WIDTH) + (share * np.log(share)).sum()
    assert singular_entropy(singular_values(head)).item() == pytest.approx(expected, rel=1e-6)

    # Diehl Martinez et al. 2024: PER of the MLP's output and of attention's OV product
    ranks = weight_ranks(final)
    size = WIDTH // HEADS
    for layer, (name, circuit) in enumerate(attention_circuits(final).items()):
        prefix = f"gpt_neox.layers.{layer}"
        assert name == f"{prefix}.attention"
        mlp = f"{prefix}.mlp.dense_4h_to_h.weight"
        assert ranks[mlp] == pytest.approx(plain_per(state[mlp]), rel=1e-9)
        fused = state[f"{name}.query_key_value.weight"].reshape(HEADS, 3, size, WIDTH)
        dense = state[f"{name}.dense.weight"].reshape(WIDTH, HEADS, size)
        products = [dense[:, head] @ fused[head, 2] for head in range(HEADS)]
        whole, heads = output_value_spectra(*circuit)
        assert proportional_effective_rank(whole).item() == pytest.approx(
            plain_per(sum(products)), rel=1e-9
        )
        for found, product in zip(heads, products, strict=True):
            assert proportional_effective_rank(found).item() == pytest.approx(
                plain_per(product, size), rel=1e-9
            )

    # and CKA of each layer's activations at the last token with the final checkpoint's
    tokens = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(0))
    for x, y in zip(last_token_states(final, tokens), last_token_states(early, tokens), strict=True):
        a, b = (states.numpy() - states.numpy().mean(0) for states in (x, y))
        expected = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
        assert linear_cka(x, y).item() == pytest.approx(expected, rel=1e-9)
