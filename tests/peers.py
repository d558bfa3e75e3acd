"""Users' programs as processes of their own, for tests and benchmarks that disturb a host.

    with peers(config, stream_id, consumers=3, rate_hz=1000) as (producer, consumers):
        os.kill(consumers[0].pid, signal.SIGSTOP)
        producer.report().published

A peer uses nothing but the public client: it gets a lease once, streams for ever, and calls
nothing to recover. Silence is what a user would notice: the time between two frames.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

import tensorpool
from tensorpool.client.events import PoolEvent
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns

ATTACH_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
_WORDS = 8
"""Every word of a frame is the same, and tells its number: one cache line fits any stride."""
_LOOK_NS = 10 * NS_PER_MS
"""How often a peer looks for orders."""
_FRAME_WAIT_S = 0.01
_PUBLISH_WAIT_S = 0.5

_SPAWN = multiprocessing.get_context("spawn")


class Silence(NamedTuple):
    """The longest time between two frames, and when it ended (CLOCK_MONOTONIC)."""

    duration_ns: int = 0
    ended_ns: int = 0


@dataclass
class Report:
    """What a peer has seen since it started; `silence` since `reset_silence` was last asked.

    Attributes:
        frames: published with a descriptor sent, or received.
        disorder: frames that did not follow their predecessor by (epoch, seq).
        first_seq, last_seq: of the present epoch.
        torn: frames whose words differ, although the client called the copy whole.
        failures: calls of `publish` that raised.
        events: how often each event of the pool happened.
    """

    frames: int = 0
    epoch: int = 0
    first_seq: int = -1
    last_seq: int = -1
    disorder: int = 0
    torn: int = 0
    failures: int = 0
    drops_back_pressured: int = 0
    drops_gap: int = 0
    drops_late: int = 0
    drops_invalid: int = 0
    silence: Silence = field(default_factory=Silence)
    events: Counter[str] = field(default_factory=Counter)


class _Record:
    """A peer's report while it grows."""

    def __init__(self) -> None:
        self.report = Report()
        self._last_ns = 0

    def on_event(self, event: PoolEvent) -> None:
        self.report.events[event.what] += 1

    def frame(self, epoch: int, seq: int) -> None:
        now_ns, report = monotonic_ns(), self.report
        if self._last_ns and now_ns - self._last_ns > report.silence.duration_ns:
            report.silence = Silence(now_ns - self._last_ns, now_ns)
        self._last_ns = now_ns
        if (epoch, seq) <= (report.epoch, report.last_seq):
            report.disorder += 1
        if epoch != report.epoch:
            report.first_seq = seq
        report.epoch, report.last_seq = epoch, seq
        report.frames += 1


def _serve(pipe: Connection, record: _Record, step: Callable[[], None]) -> None:
    """Do `step` for ever, but for the orders of the pipe; None ends it."""
    pipe.send(None)
    look_ns = 0
    while True:
        step()
        now_ns = monotonic_ns()
        if now_ns < look_ns:
            continue
        look_ns = now_ns + _LOOK_NS
        if pipe.poll():
            reset_silence = pipe.recv()
            if reset_silence is None:
                return
            pipe.send(record.report)
            if reset_silence:
                record.report.silence = Silence()


def produce_frames(
    pipe: Connection, config: str, stream_id: int, rate_hz: float, client_id: int | None = None
) -> None:
    """A producer's process: every other frame is claimed and written in place.

    With a fixed `client_id` it takes the place of one that was killed.
    """
    record = _Record()
    period_ns = int(NS_PER_S / rate_hz)
    due_ns = 0
    numbers = itertools.count()
    with (
        tensorpool.connect(config, on_event=record.on_event) as pool,
        pool.producer(stream_id, client_id=client_id, timeout_s=ATTACH_TIMEOUT_S) as producer,
    ):

        def step() -> None:
            nonlocal due_ns
            wait_ns = due_ns - monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / NS_PER_S)
            due_ns = max(due_ns, monotonic_ns() - _LOOK_NS) + period_ns
            dropped = producer.drops_back_pressured
            try:
                seq = _send(producer, next(numbers))
            except tensorpool.TensorPoolError:
                record.report.failures += 1
                return
            record.report.drops_back_pressured = producer.drops_back_pressured
            if producer.drops_back_pressured == dropped:
                record.frame(producer.epoch, seq)

        _serve(pipe, record, step)


def _send(producer: tensorpool.Producer, number: int) -> int:
    if number % 2:
        return producer.publish(np.full(_WORDS, number, np.uint64), timeout_s=_PUBLISH_WAIT_S)
    with producer.claim(_WORDS, np.uint64, timeout_s=_PUBLISH_WAIT_S) as claim:
        for index in range(_WORDS):  # word by word, so that a kill finds it half written
            claim.array[index] = number
    return claim.seq


def consume_frames(pipe: Connection, config: str, stream_id: int) -> None:
    """A consumer's process: it copies every frame and looks at each word."""
    record = _Record()
    with (
        tensorpool.connect(config, on_event=record.on_event) as pool,
        pool.consumer(stream_id, timeout_s=ATTACH_TIMEOUT_S) as consumer,
    ):

        def step() -> None:
            frame = consumer.next(_FRAME_WAIT_S)
            report = record.report
            report.drops_gap = consumer.drops_gap
            report.drops_late = consumer.drops_late
            report.drops_invalid = consumer.drops_invalid
            if frame is not None:
                record.frame(frame.epoch, frame.seq)
                words = frame.try_copy()
                if words is not None and (words != words[0]).any():
                    report.torn += 1

        _serve(pipe, record, step)


class Peer:
    """The parent's handle on one process."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None
        return self._process.pid

    def wait_attached(self) -> None:
        """Until it has its lease.

        Raises:
            TimeoutError: it does not answer.
            EOFError: it ended.
        """
        self._answer()

    def report(self, *, reset_silence: bool = False) -> Report:
        """Ask it; raises as `wait_attached` does."""
        answer = self.ask(reset_silence)
        assert isinstance(answer, Report)
        return answer

    def ask(self, order: object) -> object:
        """What its process answers to an order; raises as `wait_attached` does."""
        self._pipe.send(order)
        return self._answer()

    def _answer(self) -> object:
        if not self._pipe.poll(ANSWER_TIMEOUT_S):
            raise TimeoutError(f"process {self.pid} does not answer")
        answer: object = self._pipe.recv()
        return answer

    def stop(self) -> None:
        """Let it detach and end; killed if it does not. Idempotent."""
        if self._process.is_alive():
            with suppress(OSError):  # it may end meanwhile
                self._pipe.send(None)
            self._process.join(END_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, which ends a stopped process too."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


@contextmanager
def peers(
    config: str, stream_id: int, *, consumers: int, rate_hz: float
) -> Iterator[tuple[Peer, list[Peer]]]:
    """Consumers, and a producer once they are there; detached and ended at the end."""
    with ExitStack() as stack:

        def start(target: Callable[..., None], *arguments: object) -> Peer:
            peer = Peer(target, config, stream_id, *arguments)
            stack.callback(peer.stop)
            return peer

        receivers = [start(consume_frames) for _ in range(consumers)]
        for receiver in receivers:
            receiver.wait_attached()
        producer = start(produce_frames, rate_hz)
        producer.wait_attached()
        yield producer, receivers
