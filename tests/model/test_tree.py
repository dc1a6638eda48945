"""Texts read as one tree have the states that they have when each is read alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.test_cache import BODIES, body

from rankbound import InputError
from rankbound.model.tree import TokenTree


def random_tree(count: int, seed: int) -> tuple[TokenTree, list[list[int]]]:
    """A random tree of so many nodes in preorder, and the nodes that lead to each, itself the last."""
    generator = torch.Generator().manual_seed(seed)
    branches = [[0]]
    for node in range(1, count):  # below the last node or one that leads to it
        last = branches[-1]
        depth = int(torch.randint(1, len(last) + 1, (), generator=generator))
        branches.append([*last[:depth], node])
    ends = [max(i for i, branch in enumerate(branches) if node in branch) + 1 for node in range(count)]
    tokens = torch.randint(0, 50, (count,), generator=generator)
    positions = torch.tensor([len(branch) - 1 for branch in branches])
    return TokenTree(tokens[None], positions[None], torch.tensor([ends])), branches


@pytest.mark.parametrize("settings", BODIES)
@pytest.mark.parametrize("graded", [False, True])
def test_every_node_is_as_its_branch_read_alone(settings, graded):
    model = body(settings)
    tree, branches = random_tree(40, seed=3)
    with torch.set_grad_enabled(graded):
        states = model.read_tree(tree)
        for node, branch in enumerate(branches):
            alone = model(tree.tokens[:, branch])[0, -1]
            assert torch.allclose(states[0, node], alone, atol=2e-5)


@given(st.integers(1, 30), st.integers(0, 1000), st.sampled_from(range(len(BODIES))))
@settings(max_examples=20, deadline=None)
def test_any_tree_in_float64(count, seed, which):
    with torch.inference_mode():
        model = body(BODIES[which], torch.float64)
        tree, branches = random_tree(count, seed)
        states = model.read_tree(tree)[0]
        alone = torch.stack([model(tree.tokens[:, branch])[0, -1] for branch in branches])
        assert torch.allclose(states, alone, atol=1e-9)


def test_who_sees_whom():
    tree, branches = random_tree(12, seed=1)
    expected = torch.tensor([[node in branch for node in range(12)] for branch in branches])
    assert torch.equal(tree.visible()[0], expected)


def test_a_chain_is_a_text():
    model, count = body({}), 30
    tokens = torch.arange(count)[None]
    chain = TokenTree(tokens, torch.arange(count)[None], torch.full((1, count), count))
    with torch.inference_mode():
        assert torch.allclose(model.read_tree(chain), model(tokens), atol=1e-6)


def test_gradients_flow_through_a_shared_beginning():
    model = body({}, torch.float64)
    tree = TokenTree(*torch.tensor([[[7, 8, 9]], [[0, 1, 1]], [[3, 2, 3]]]))
    model.read_tree(tree)[0, 1:].sum().backward()
    together = model.embedding.weight.grad.clone()
    model.zero_grad()
    (model(torch.tensor([[7, 8]]))[0, 1].sum() + model(torch.tensor([[7, 9]]))[0, 1].sum()).backward()
    assert torch.allclose(model.embedding.weight.grad, together, atol=1e-12)


def test_a_position_that_the_model_does_not_have_is_named():
    tree = TokenTree(*torch.tensor([[[7, 8]], [[0, 600]], [[2, 2]]]))
    with pytest.raises(InputError, match="a sequence of 601 tokens is longer"):
        body({}).read_tree(tree)
