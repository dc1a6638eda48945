"""Corrections: gradients by hand against autograd of the definition, in float64."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from rankbound import InputError
from rankbound.analysis.correction_shapes import Shape, shape_of, token_order
from rankbound.analysis.corrections import Chunk, Correction

N, D, V = 30, 5, 23
KINDS = ("linear", "expanded", "partitioned", "mixture")


def definition(correction, flat, states, base, target, cap):
    """Nats of each row, as the module's docstring has it."""
    readout, maps, shift, gates = correction._views(flat)
    tokens, constant = readout[:, :-2], readout[:, -2]
    before = torch.einsum("nd,jed->nje", states, maps) + (shift if len(shift) else 0)
    kind = correction.shape.kind
    features = before
    if kind in ("expanded", "partitioned"):
        half = min(before.shape[2] // 2, D)
        features = torch.cat([before[..., :half], F.gelu(before[..., half:])], 2)
    if kind == "partitioned":
        part = token_order(V) % 4
        logits = torch.einsum("nve,ve->nv", features[:, part], tokens)[:, None]
    else:
        logits = torch.einsum("nke,ve->nkv", features, tokens)
    logits = logits + constant + base.expand(N, V)[:, None]
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    log_prob = logits.log_softmax(2)
    if kind == "mixture":
        mixing = (states @ gates[:, :-1].T + gates[:, -1]).log_softmax(1)
        log_prob = (mixing[:, :, None] + log_prob).logsumexp(1, keepdim=True)
    return -log_prob[:, 0].gather(1, target[:, None]).squeeze(1)


def chunk_of(base, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(N, D, generator=generator).double()
    target = torch.randint(0, V, (N,), generator=generator)
    return Chunk(states, base, base.expand(N, V).amax(1, keepdim=True), target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("rows", [N, 1])
def test_loss_and_gradient(kind, cap, rows):
    torch.manual_seed(0)
    base = 2 * torch.randn(rows, V).double()
    chunk = chunk_of(base[0] if rows == 1 else base)
    correction = Correction(Shape(kind, 3, D, V), cap, seed=1, like=base)
    correction.values += 0.3 * torch.randn_like(correction.values)
    correction._views(correction.values)[0][:, -1] = 1
    flat = correction.values.clone().requires_grad_()
    nats = definition(correction, flat, chunk.states, base, chunk.target, cap)
    nats.mean().backward()
    wanted = flat.grad.clone()
    correction._views(wanted)[0][:, -1] = 0
    room = torch.empty(4 * N * V).double()
    assert torch.allclose(correction.add_gradient(chunk, 1 / N, room), nats)
    assert torch.allclose(correction.gradient, wanted, atol=1e-12)
    assert torch.allclose(correction.nll(chunk, room), nats)
    correction.add_gradient(chunk, 1 / N, room)
    assert torch.allclose(correction.gradient, 2 * wanted, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [None, 4.0])
def test_starts_exactly_at_the_head(kind, cap):
    base = 3 * torch.randn(N, V, generator=torch.Generator().manual_seed(1)).double()
    chunk = chunk_of(base)
    correction = Correction(Shape(kind, 4, D, V), cap, like=base)
    logits = base if cap is None else cap * torch.tanh(base / cap)
    known = F.cross_entropy(logits, chunk.target, reduction="none")
    assert torch.allclose(correction.nll(chunk, torch.empty(4 * N * V).double()), known, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_counted_and_no_more_than_asked(kind):
    shape = shape_of(kind, 600, D, V)
    correction = Correction(shape, like=torch.empty(0))
    assert correction.values.numel() - V == shape.parameter_count <= 600
    assert Shape(kind, shape.size + 1, D, V).parameter_count > 600


def test_the_chunks_of_a_batch_add_up():
    base = torch.randn(N, V, generator=torch.Generator().manual_seed(2)).double()
    chunk = chunk_of(base)
    whole, parts = (Correction(Shape("mixture", 3, D, V), seed=2, like=base) for _ in range(2))
    room = torch.empty(4 * N * V).double()
    whole.add_gradient(chunk, 0.1, room)
    parts.add_gradient(chunk.first(11), 0.1, room)
    rest = Chunk(chunk.states[11:], base[11:], chunk.shift[11:], chunk.target[11:])
    parts.add_gradient(rest, 0.1, room)
    assert torch.allclose(whole.gradient, parts.gradient, atol=1e-12)


def test_token_order_puts_parts_together():
    order = token_order(10, 4)
    assert (order % 4).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert sorted(order.tolist()) == list(range(10))
    assert token_order(2, 4).tolist() == [0, 1]


def test_bad_shapes_are_named():
    with pytest.raises(InputError, match="there is no correction 'wide'"):
        Shape("wide", 2, D, V)
    with pytest.raises(InputError, match="at least 1"):
        Shape("linear", 0, D, V)
