"""Who hears of frames being written, how often, and which part may be read (Wire §10.2.2)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool.client.progress import (
    DEFAULT_BYTES_DELTA,
    DEFAULT_INTERVAL_US,
    MIN_BYTES_DELTA,
    MIN_INTERVAL_US,
    ProgressGuard,
    ProgressPolicy,
    complete_part,
    policy_of,
)
from tensorpool.client.tensors import contiguous_header, layout_of
from tensorpool.shm.slot import decode_tensor_header
from tensorpool.wire.control import (
    ConsumerHello,
    Dtype,
    FrameProgress,
    FrameProgressState,
    MajorOrder,
)


def hello(
    interval_us: int | None = None,
    bytes_delta: int | None = None,
    units: int | None = None,
    wants: int = 1,
) -> ConsumerHello:
    return ConsumerHello(1, 2, 1, wants, 1, 0, 1, interval_us, bytes_delta, units)


def test_nobody_wants_it() -> None:
    assert policy_of([]) is None
    assert policy_of([hello(1, 1, 1, wants=0)]) is None


def test_defaults_hold_without_hints() -> None:
    expected = ProgressPolicy(DEFAULT_INTERVAL_US * 1000, DEFAULT_BYTES_DELTA, 0)
    assert policy_of([hello()]) == expected


def test_the_most_frequent_wish_wins_above_the_floor() -> None:
    policy = policy_of([hello(500, 8192, 16), hello(300, 1 << 20, 4), hello(1, 1, 1, wants=0)])
    assert policy == ProgressPolicy(300_000, 8192, 4)
    assert policy_of([hello(1, 1)]) == ProgressPolicy(MIN_INTERVAL_US * 1000, MIN_BYTES_DELTA, 0)


def test_coarse_hints_do_not_slow_those_without() -> None:
    policy = policy_of([hello(10_000, 1 << 30), hello()])
    assert policy == ProgressPolicy(DEFAULT_INTERVAL_US * 1000, DEFAULT_BYTES_DELTA, 0)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    order=st.sampled_from(MajorOrder),
    filled=st.integers(0, 2000),
)
def test_the_complete_part_lies_in_what_is_filled(
    shape: tuple[int, ...], order: MajorOrder, filled: int
) -> None:
    if order is MajorOrder.UNKNOWN:
        return
    letter = "C" if order is MajorOrder.ROW else "F"
    array = np.zeros(shape, np.uint16, order=letter)  # type: ignore[call-overload]
    header = decode_tensor_header(contiguous_header(shape, Dtype.UINT16, order))
    layout = layout_of(header, array.nbytes)
    part = complete_part(array, layout, min(filled, array.nbytes))
    assert part.nbytes <= filled
    axis = 0 if letter == "C" else len(shape) - 1
    unit = array.nbytes // shape[axis]
    assert part.shape[axis] == min(filled // unit, shape[axis])


def report(seq: int, filled: int, state: int = FrameProgressState.PROGRESS) -> FrameProgress:
    return FrameProgress(1, 7, seq, filled, state)


@pytest.mark.parametrize(
    ("former", "later", "accepted"),
    [
        (report(5, 100), report(5, 100), True),
        (report(5, 100), report(5, 101), True),
        (report(5, 100), report(5, 99), False),
        (report(5, 100), report(6, 0), True),
        (report(5, 100), report(4, 200), False),
        (report(5, 100, FrameProgressState.COMPLETE), report(5, 100), False),
        (report(5, 100), report(5, 200, FrameProgressState.UNKNOWN), False),
        (report(5, 100), report(5, 200, 9), False),
    ],
)
def test_nothing_regresses_within_a_frame(
    former: FrameProgress, later: FrameProgress, accepted: bool
) -> None:
    guard = ProgressGuard()
    assert guard.accepts(former)
    assert guard.accepts(later) == accepted
