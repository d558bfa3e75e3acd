"""Producer, consumers, restarts and epochs at random, beside a model that says what must come.

The model knows which frame each slot of the ring holds, and so which frame `next` must return,
which frames it must count as late and which as a gap, and which held frames must be valid. All
runs in one thread, so within an epoch every number is predicted, not bounded. Over a restart,
where frames are in flight, each frame must still be counted once at most.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tensorpool
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

NSLOTS = 8
FULL = os.environ.get("TENSORPOOL_CHAOS_FULL") == "1"
EXAMPLES, STEPS = (300, 60) if FULL else (30, 40)
DEADLINE_S = 30
CAMERA = 77
"""A fixed client id: a detach that is lost with its media driver does not keep the next one out."""
DTYPES = ["u1", "<u2", "<f4", "<i8"]
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def content(epoch: int, seq: int, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """What the frame must hold: no two frames of a ring's neighbourhood look alike."""
    value = (epoch * 7 + seq * 13) % 101
    return np.full(shape, value, dtype)


@dataclass
class Counts:
    received: int = 0
    late: int = 0
    gap: int = 0
    skipped: int = 0


@dataclass
class Reader:
    """A consumer and what the model expects of it in this epoch."""

    view: tensorpool.Consumer
    pending: deque[int] = field(default_factory=deque)
    last: int | None = None
    expected: Counts = field(default_factory=Counts)
    base: Counts = field(default_factory=Counts)
    held: list[tuple[tensorpool.Frame, np.ndarray[Any, Any]]] = field(default_factory=list)

    def actual(self) -> Counts:
        view = self.view
        assert view.drops_invalid == 0
        return Counts(view.received, view.drops_late, view.drops_gap, view.skipped)

    def take_up(self) -> None:
        """From here on everything is predicted."""
        self.pending.clear()
        self.held.clear()
        self.base, self.expected = self.actual(), Counts()
        self.last = self.view._last_seq if self.view._last_seq >= 0 else None


class ClientMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self, host: RunningHost) -> None:
        super().__init__()
        self.host = host
        self.pool = tensorpool.connect(host.config)
        self.camera = self.pool.producer(STREAM, client_id=CAMERA, timeout_s=DEADLINE_S)
        self.readers: list[Reader] = []
        self.claims: list[tensorpool.ClaimedFrame] = []
        self.waiting: dict[int, bool | None] = {}
        self.slots: dict[int, tuple[int, bool]] = {}
        self.frames: dict[int, np.ndarray[Any, Any]] = {}
        self.kills = 0

    @initialize(count=st.integers(1, 3))
    def attach(self, count: int) -> None:
        for _ in range(count):
            self.readers.append(Reader(self.pool.consumer(STREAM, timeout_s=DEADLINE_S)))
        self.synchronize()

    # -- the model ------------------------------------------------------------------------

    def begin(self, seq: int) -> None:
        self.slots[seq % NSLOTS] = (seq, False)

    def commit(self, seq: int, array: np.ndarray[Any, Any]) -> None:
        assert self.slots[seq % NSLOTS] == (seq, False)
        self.slots[seq % NSLOTS] = (seq, True)
        self.frames[seq] = array

    def describe(self) -> None:
        """Frames are told in order; what waits for an earlier claim waits here too."""
        while self.waiting and (state := next(iter(self.waiting.values()))) is not None:
            seq = next(iter(self.waiting))
            del self.waiting[seq]
            if state:
                for reader in self.readers:
                    reader.pending.append(seq)

    def is_whole(self, seq: int) -> bool:
        return self.slots.get(seq % NSLOTS) == (seq, True)

    def pass_frame(self, reader: Reader, seq: int) -> None:
        if reader.last is not None:
            reader.expected.gap += seq - reader.last - 1
        reader.last = seq

    def predict_next(self, reader: Reader) -> int | None:
        while reader.pending:
            seq = reader.pending.popleft()
            self.pass_frame(reader, seq)
            if self.is_whole(seq):
                reader.expected.received += 1
                return seq
            reader.expected.late += 1
        return None

    def predict_latest(self, reader: Reader) -> int | None:
        while len(reader.pending) > 1:
            self.pass_frame(reader, reader.pending.popleft())
            reader.expected.skipped += 1
        return self.predict_next(reader)

    def accept(self, reader: Reader, frame: tensorpool.Frame | None, seq: int | None) -> None:
        assert (None if frame is None else frame.seq) == seq
        if frame is not None and seq is not None:
            assert frame.epoch == self.camera.epoch
            np.testing.assert_array_equal(frame.copy(), self.frames[seq])
            assert frame.dtype == self.frames[seq].dtype
            reader.held.append((frame, self.frames[seq]))

    # -- rules ----------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), shape=SHAPES, dtype=st.sampled_from(DTYPES))
    def publish(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        for _ in range(count):
            seq = self.camera.next_seq
            if self.waiting and seq - next(iter(self.waiting)) >= NSLOTS - 1:
                return
            self.publish_one(shape, dtype)

    def publish_one(self, shape: tuple[int, ...], dtype: str) -> None:
        seq = self.camera.next_seq
        array = content(self.camera.epoch, seq, shape, dtype)
        self.begin(seq)
        assert self.camera.publish(array) == seq
        self.commit(seq, array)
        self.waiting[seq] = True
        self.describe()

    @precondition(lambda self: len(self.claims) < 5)
    @rule(shape=SHAPES, dtype=st.sampled_from(DTYPES))
    def claim(self, shape: tuple[int, ...], dtype: str) -> None:
        seq = self.camera.next_seq
        if self.waiting and seq - next(iter(self.waiting)) >= NSLOTS - 1:
            return
        claim = self.camera.claim(shape, dtype)
        assert claim.seq == seq
        self.begin(seq)
        self.waiting[seq] = None
        self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        array = content(self.camera.epoch, claim.seq, claim.array.shape, claim.array.dtype.str)
        claim.array[:] = array
        claim.publish()
        self.commit(claim.seq, array)
        self.waiting[claim.seq] = True
        self.describe()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        claim.abandon()
        self.waiting[claim.seq] = False
        while self.waiting and self.waiting.get(max(self.waiting)) is False:
            del self.waiting[max(self.waiting)]
        self.describe()
        assert (
            self.camera.next_seq <= claim.seq
            or self.camera.next_seq > claim.seq + 1
            or self.waiting
        )

    @rule(data=st.data(), count=st.integers(1, 10))
    def take(self, data: st.DataObject, count: int) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        for _ in range(count):
            self.accept(reader, reader.view.next(0), self.predict_next(reader))

    @rule(data=st.data())
    def take_latest(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.accept(reader, reader.view.latest(), self.predict_latest(reader))

    @precondition(lambda self: len(self.readers) < 4)
    @precondition(lambda self: not self.waiting)
    @rule()
    def join(self) -> None:
        """A consumer that comes in the middle of an epoch sees what is told from then on.

        And, since its subscription joins where the slowest one is, perhaps a little of what was
        told before: whole, but not to be predicted. So it is predicted once it is level.
        """
        reader = Reader(self.pool.consumer(STREAM, timeout_s=DEADLINE_S))

        def is_level() -> bool:
            self.publish_one((1,), "u1")
            while (frame := reader.view.next(0)) is not None:
                assert frame.epoch == self.camera.epoch
                assert frame.valid == self.is_whole(frame.seq)
                if frame.valid and frame.seq in self.frames:
                    np.testing.assert_array_equal(frame.array, self.frames[frame.seq])
            return reader.view._last_seq == self.camera.next_seq - 1

        wait_until(is_level, DEADLINE_S, lambda: f"level\n{list(self.pool.events)[-12:]}")
        self.readers.append(reader)
        reader.take_up()

    @precondition(lambda self: len(self.readers) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1))).view.close()

    @rule()
    def restart_producer(self) -> None:
        self.camera.close(linger_s=0)
        self.camera = self.pool.producer(STREAM, client_id=CAMERA, timeout_s=DEADLINE_S)
        self.synchronize()

    @precondition(lambda self: self.kills < 1)
    @rule(victim=st.sampled_from(["driver", "media_driver"]))
    def kill(self, victim: str) -> None:
        self.kills += 1
        former = self.host.pid_of(victim)
        os.kill(former, signal.SIGKILL)
        self.host.wait_restarted(victim, former)
        if victim == "media_driver":
            # Mapped logs outlive their media driver: notice the loss before going on.
            wait_until(
                lambda: sum(e.what == "media_driver_back" for e in self.pool.events) > 0,
                DEADLINE_S,
                "a new connection",
            )
        else:
            wait_until(
                lambda: (
                    sum(e.what == "reattached" for e in self.pool.events) >= 1 + len(self.readers)
                ),
                DEADLINE_S,
                "new leases",
            )
        self.synchronize(is_logged_anew=victim == "media_driver")

    def synchronize(self, *, is_logged_anew: bool = False) -> None:
        """Publish until every consumer has a frame of the present epoch; then predict anew.

        Args:
            is_logged_anew: by another media driver, so that what was told before a consumer
                listened there is lost to it.
        """
        for claim in self.claims:
            claim.abandon()
        self.claims.clear()
        before = {id(r): self.total(r) for r in self.readers}
        for reader in self.readers:

            def has_frame(reader: Reader = reader) -> bool:
                self.camera.publish(content(0, 0, (1,), "u1"))
                frame = reader.view.next(0)
                return frame is not None and frame.epoch == self.camera.epoch

            wait_until(has_frame, DEADLINE_S, lambda: f"a frame\n{list(self.pool.events)[-12:]}")

        def are_level() -> bool:
            found = [reader.view.next(0) for reader in self.readers]
            newest = self.camera.next_seq - 1
            is_level = all(reader.view._last_seq == newest for reader in self.readers)
            is_silent = all(frame is None for frame in found)
            if is_logged_anew and not is_level and is_silent:
                self.camera.publish(content(0, 0, (1,), "u1"))
            return is_level

        wait_until(
            are_level,
            DEADLINE_S,
            lambda: (
                f"frame {self.camera.next_seq - 1} of {self.camera.epoch}, "
                f"{self.camera.drops_back_pressured} not sent: "
                + ", ".join(
                    f"{reader.view._last_seq} of {reader.view.epoch}, {reader.actual()}"
                    for reader in self.readers
                )
                + f"\n{list(self.pool.events)[-12:]}"
            ),
        )
        for reader in self.readers:
            assert self.total(reader) >= before[id(reader)]
        self.waiting.clear()
        self.frames.clear()
        self.slots = {s % NSLOTS: (s, True) for s in range(self.camera.next_seq)}
        for reader in self.readers:
            reader.take_up()

    @staticmethod
    def total(reader: Reader) -> int:
        counts = reader.actual()
        return counts.received + counts.late + counts.gap + counts.skipped

    # -- always ---------------------------------------------------------------------------

    @invariant()
    def counts_are_exact(self) -> None:
        for reader in self.readers:
            actual, base, expected = reader.actual(), reader.base, reader.expected
            assert (
                Counts(
                    actual.received - base.received,
                    actual.late - base.late,
                    actual.gap - base.gap,
                    actual.skipped - base.skipped,
                )
                == expected
            )

    @invariant()
    def held_frames_tell_the_truth(self) -> None:
        for reader in self.readers:
            for frame, array in reader.held:
                is_whole = self.is_whole(frame.seq)
                assert frame.valid == is_whole
                if is_whole:
                    np.testing.assert_array_equal(frame.array, array)

    def teardown(self) -> None:
        for reader in self.readers:
            reader.held.clear()
            reader.view.close()
        self.camera.close(linger_s=0)
        self.pool.close()


@pytest.mark.timeout(3600 if FULL else 240)
def test_the_client_does_what_the_model_says(calm_host: RunningHost) -> None:
    run_state_machine_as_test(
        lambda: ClientMachine(calm_host),  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not FULL,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
