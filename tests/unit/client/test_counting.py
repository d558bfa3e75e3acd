"""The rules by which frames are counted are there twice, in C and in Python: both count alike."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from tensorpool.client.consumer import Consumer
from tensorpool.client.slots import REFUSED, FrameState, SlotReader, decode_layout, empty_view
from tensorpool.shm.layout import HEADER_SLOT_BYTES, SUPERBLOCK_BYTES
from tests.unit.client.test_short_way import NSLOTS, STRIDE, Ends
from tests.unit.client.test_slots import BLOCK, EPOCH, NULL_U32, NULL_U64, PREFIX

POOL_ID_AT = 16
"""In a slot (Wire §8.2)."""
MOST_SEQ = 6 * NSLOTS

publishes = st.tuples(st.just("publish"), st.integers(1, 2 * NSLOTS))
losses = st.tuples(st.just("lose"), st.integers(0, 2 * NSLOTS))
repeats = st.tuples(st.just("repeat"), st.integers(0, 2 * NSLOTS))
inventions = st.tuples(st.just("invent"), st.integers(0, MOST_SEQ))
damages = st.tuples(st.just("damage"), st.integers(0, NSLOTS - 1))
looks = st.tuples(st.just("take"), st.integers(1, 3 * NSLOTS))
histories = st.lists(
    st.one_of(publishes, losses, repeats, inventions, damages, looks), min_size=1, max_size=30
)


class Frame(FrameState):
    """As `tensorpool.Frame`, without its C part."""

    __slots__ = ()


class PythonConsumer:
    """The rules of `Consumer` alone, on the same regions: no lease, no pool, no short way."""

    def __init__(self, ends: Ends) -> None:
        ring, pool = (memoryview(mapping).toreadonly() for mapping in ends.mappings)
        consumer: Any = Consumer.__new__(Consumer)
        consumer._mapped = SimpleNamespace(epoch=EPOCH)
        consumer._is_gated = False
        consumer._inbox = SimpleNamespace(waiting=deque(), is_own=False)
        consumer._reader = SlotReader(
            ring, [(7, STRIDE, pool)], NSLOTS, Frame, consumer, decode_layout, REFUSED, empty_view
        )
        consumer._last_seq, consumer._last_epoch = -1, EPOCH
        self.consumer, self.waiting = consumer, consumer._inbox.waiting
        poll = ends.subscription.raw_poll

        def poll_for_both(handler: Any, limit: int, *, assemble: bool) -> int:
            for message in itertools.islice(ends.sent, limit):
                self.hear(message)
            return int(poll(handler, limit, assemble=assemble))

        ends.subscription.raw_poll = poll_for_both

    def hear(self, message: bytes) -> None:
        stream_id, epoch, seq, _, _, trace_id = BLOCK.unpack_from(message, len(PREFIX))
        self.waiting.append((stream_id, epoch, seq, NULL_U64, NULL_U32, trace_id))

    def take(self) -> Any:
        while self.waiting:
            frame = self.consumer._open(self.waiting.popleft())
            if frame is not None:
                return frame
        return None

    @property
    def counts(self) -> tuple[int, int, int, int]:
        one = self.consumer
        return one.received, one.drops_gap, one.drops_late, one.drops_invalid


def _play(ends: Ends, python: PythonConsumer, what: str, number: int) -> None:
    match what:
        case "publish":
            for _ in range(number):
                ends.publish()
        case "lose" if number < len(ends.sent):
            del ends.sent[number]
        case "repeat" if number < len(ends.sent):
            ends.sent.append(ends.sent[number])
        case "invent":
            ends.tell(number)
        case "damage":
            at = SUPERBLOCK_BYTES + number * HEADER_SLOT_BYTES + POOL_ID_AT
            ends.mappings[0][at : at + 2] = b"\xff\xff"
        case "take":
            for _ in range(number):
                _compare(ends, python)
        case _:
            pass


def _compare(ends: Ends, python: PythonConsumer) -> None:
    fast, slow = ends.take(), python.take()
    assert (fast is None) == (slow is None)
    assert fast is None or fast.seq == slow.seq


@given(histories)
def test_both_count_alike(history: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ends = Ends(Path(directory))
        python = PythonConsumer(ends)
        for what, number in [*history, ("take", 10 * MOST_SEQ)]:
            _play(ends, python, what, number)
        assert ends.counts == python.counts
        ends.consumer._disarm()
        ends.producer._disarm()
