import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound.errors import InputError
from rankbound.training.when import When

NEVER = When(every=None, per_doubling=0, start=False, end=False)


def steps(when, last):
    return [step for step in range(last + 1) if when.due(step, last)]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (NEVER, []),
        (When(every=4, per_doubling=0, start=False, end=False), [4, 8]),
        (When(every=None, per_doubling=1), [0, 1, 2, 4, 8, 10]),
        (When(every=None, per_doubling=2, end=False), [0, 1, 3, 2, 4, 6, 8]),
        (When(every=None, per_doubling=0, at=[0, 7], start=False), [0, 7, 10]),
        (When(every=5, per_doubling=0, at=[7]), [0, 5, 7, 10]),
    ],
)
def test_schedules_are_the_union_of_what_is_set(when, expected):
    assert steps(when, 10) == sorted(expected)


@given(st.integers(1, 6), st.integers(1, 500))
def test_log_spaced_steps_are_as_many_as_asked_and_evenly_spaced(per_doubling, last):
    found = steps(When(every=None, per_doubling=per_doubling, start=False, end=False), last)
    nearest = {int(2 ** (k / per_doubling) + 0.5) for k in range(per_doubling * 10)}
    assert found == sorted(step for step in nearest if step <= last)


def test_minutes_count_from_the_last_time():
    when = When(every=None, per_doubling=0, minutes=2, start=False, end=False)
    assert not when.due(7, 100, seconds=119)
    assert when.due(7, 100, seconds=120)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"per_doubling": -1}, {"at": [-1]}, {"minutes": 0}, {"minutes": float("nan")}]
)
def test_schedules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"when.{next(iter(wrong))} is"):
        When(**wrong)
