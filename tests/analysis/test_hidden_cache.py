"""States from memory, from disk and made again are the same states."""

import pytest
import torch

from rankbound import InputError
from rankbound.analysis.hidden_cache import InMemory, OnDisk, Recomputed, bytes_needed, hidden_states

WINDOWS, LENGTH, WIDTH = 7, 5, 6


@pytest.fixture
def hidden():
    scale = 10.0 ** torch.arange(-3, 4).repeat_interleave(LENGTH)[:, None]
    return torch.randn(WINDOWS * LENGTH, WIDTH, generator=torch.Generator().manual_seed(0)) * scale


def forward_of(hidden, calls=None):
    def forward(windows):
        if calls is not None:
            calls.append(windows.tolist())
        return hidden.view(WINDOWS, LENGTH, WIDTH)[windows].flatten(0, 1)

    return forward


ROWS = torch.tensor([34, 0, 3, 3, 17])


def test_recomputed_states_are_exact_and_made_by_whole_windows(hidden):
    calls = []
    states = Recomputed(forward_of(hidden, calls), WINDOWS, LENGTH, WIDTH, batch=2)
    assert torch.equal(states.take(ROWS), InMemory(hidden).take(ROWS))
    assert calls == [[0, 3], [6]]
    assert (len(states), states.width, states.block) == (35, WIDTH, LENGTH)


def test_half_precision_keeps_three_digits_of_every_size_of_state(hidden):
    states = hidden_states(forward_of(hidden), WINDOWS, LENGTH, WIDTH, disk_budget=1 << 20, batch=3)
    assert isinstance(states, OnDisk)
    found = states.take(torch.arange(35))
    largest = hidden.abs().amax(1, keepdim=True)
    assert ((found - hidden).abs() / largest).max() < 2**-11
    assert torch.equal(states.take(ROWS), found[ROWS])


def test_a_budget_too_small_means_making_them_again(hidden):
    needed = bytes_needed(WINDOWS * LENGTH, WIDTH)
    told = []
    kept = hidden_states(
        forward_of(hidden), WINDOWS, LENGTH, WIDTH, disk_budget=needed, progress=told.append
    )
    made = hidden_states(forward_of(hidden), WINDOWS, LENGTH, WIDTH, disk_budget=needed - 1)
    assert isinstance(kept, OnDisk)
    assert isinstance(made, Recomputed)
    assert told[-1] == 1


def test_states_of_zero_and_of_nan(hidden):
    zeros = OnDisk(iter([torch.zeros(3, 2)]), 3, 2)
    assert zeros.take(torch.arange(3)).tolist() == [[0, 0]] * 3
    hidden[4, 1] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        OnDisk(iter([hidden]), 35, WIDTH)
    with pytest.raises(InputError, match="2 rows where 3"):
        OnDisk(iter([torch.zeros(2, 2)]), 3, 2)
