import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.corpora import SampleOrder, count_windows

orders = st.builds(SampleOrder, st.integers(1, 60), st.integers(1, 25), st.integers(-(2**63), 2**64))


def stream(order, positions):
    steps = -(-positions // order.batch_size)
    return np.concatenate([order.batch(step) for step in range(steps)])[:positions]


@given(orders)
def test_each_epoch_is_every_window_once(order):
    epochs = stream(order, 3 * order.num_windows).reshape(3, order.num_windows)
    assert (np.sort(epochs, axis=1) == np.arange(order.num_windows)).all()


@given(orders, st.lists(st.integers(0, 500), min_size=1, max_size=10))
def test_a_batch_depends_on_seed_and_step_alone(order, steps):
    for step in steps:  # in any order, after anything
        fresh = SampleOrder(order.num_windows, order.batch_size, order.seed)
        batch = order.batch(step)
        assert batch.shape == (order.batch_size,)
        assert batch.dtype == np.int64
        assert (batch == fresh.batch(step)).all()


@given(st.integers(1, 40), st.integers(1, 7))
def test_the_stream_does_not_depend_on_the_batch_size(num_windows, batch_size):
    one, many = SampleOrder(num_windows, 1, 3), SampleOrder(num_windows, batch_size, 3)
    assert (stream(one, 60) == stream(many, 60)).all()


def test_epochs_and_seeds_differ():
    orders = [SampleOrder(1000, 1000, seed) for seed in range(3)]
    batches = [tuple(order.batch(step)) for order in orders for step in range(3)]
    assert len(set(batches)) == 9


def test_permutations_are_uniform():
    """Where window 0 lands over 4,000 epochs of 8: each place 500 times, deviation 21."""
    order = SampleOrder(8, 8, 0)
    places = [int(np.flatnonzero(order.batch(epoch) == 0)[0]) for epoch in range(4000)]
    assert np.abs(np.bincount(places) - 500).max() < 100


def test_the_order_stays_what_it_was():
    """A change here would make old runs resume into other data."""
    assert SampleOrder(10, 10, 7).batch(0).tolist() == [8, 4, 1, 6, 3, 2, 7, 5, 9, 0]


@given(st.integers(1, 50), st.integers(2, 500))
def test_windows_cover_all_they_can(window, tokens):
    if tokens <= window:
        with pytest.raises(InputError, match=f"valid has {tokens} tokens.* {window} .*{window + 1}"):
            count_windows(tokens, window, "valid")
    else:
        count = count_windows(tokens, window, "valid")
        assert (count - 1) * window + window < tokens  # the last target exists
        assert count * window + window >= tokens  # one more would not
