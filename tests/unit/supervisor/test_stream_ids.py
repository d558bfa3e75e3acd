"""The allocator as a state machine: no id twice, none from outside, none lost."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tensorpool.settings import IdRange
from tensorpool.supervisor.stream_ids import StreamIds

IDS = IdRange(500, 507)


class StreamIdsMachine(RuleBasedStateMachine):
    """Consumers take and release ids, with and without a preference, in any order."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.stream_ids = StreamIds(IDS)
        self.taken: set[int] = set()

    @rule(target=held, preferred=st.integers(490, 520), consumer_id=st.integers(0, 2**32 - 1))
    def take(self, preferred: int, consumer_id: int) -> int | None:
        was_free = self.stream_ids.is_free(preferred)
        stream_id = self.stream_ids.take(preferred, consumer_id)
        if stream_id is None:
            assert len(self.taken) == len(IDS), "declined although an id was free"
            return None
        assert stream_id in IDS
        assert stream_id not in self.taken, "an id was given to two consumers"
        assert not was_free or stream_id == preferred
        self.taken.add(stream_id)
        return stream_id

    @rule(stream_id=consumes(held))
    def release(self, stream_id: int | None) -> None:
        if stream_id is not None:
            self.stream_ids.release(stream_id)
            self.taken.remove(stream_id)

    @invariant()
    def agree(self) -> None:
        assert self.stream_ids.in_use == len(self.taken)
        assert all(self.stream_ids.is_free(i) != (i in self.taken) for i in IDS)


TestStreamIds = StreamIdsMachine.TestCase


def test_a_new_allocator_finds_the_same_ids_for_the_same_consumers() -> None:
    def ids_of() -> list[int | None]:
        stream_ids = StreamIds(IDS)
        return [stream_ids.take(0, consumer_id) for consumer_id in (3, 12, 4)]

    assert ids_of() == ids_of() == [503, 504, 505]


def test_an_id_that_nobody_has_cannot_be_released() -> None:
    with pytest.raises(KeyError):
        StreamIds(IDS).release(IDS.first)
