"""The clients of a soak: they attach, work, detach, and tell whatever is not as it must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import tensorpool
from bench.soak.frames import content, is_content, words_of
from bench.soak.in_use import InUse
from bench.soak.plan import Job, Manner, Role
from tensorpool.clock import NS_PER_MS, NS_PER_S

ATTACH_TIMEOUT_S = 2.0
_AGAIN_NS = 500 * NS_PER_MS
_PASSING = (
    tensorpool.AttachRejected,
    tensorpool.LeaseLost,
    tensorpool.NoDriver,
    tensorpool.MediaDriverLost,
)
"""What a client must expect while others are killed and it is itself stopped."""
_BATCH = 16
_ERRORS_KEPT = 20


@dataclass
class Tally:
    """What the clients of a worker have done since it started.

    Attributes:
        published: frames committed.
        checked: frames read, and found whole, in order and with the right content.
        stale: frames that were overwritten while they were read, and told so.
        attaches, detaches: that succeeded.
        refusals: attaches and frames put off, by the error that said why.
        events: what the pool told, by its word.
        logged: warnings and worse of the library, by their text.
        errors: what must not be, in words; the first ones.
        error_count: how many there were.
        in_use: memory of the worker, as of its last look; of no sum.
    """

    published: int = 0
    checked: int = 0
    stale: int = 0
    attaches: int = 0
    detaches: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    logged: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    error_count: int = 0
    in_use: InUse | None = None

    def fault(self, text: str) -> None:
        """Something is not as it must be."""
        self.error_count += 1
        if len(self.errors) < _ERRORS_KEPT:
            self.errors.append(text)

    def add(self, other: Tally) -> None:
        """Take up what another worker counted."""
        self.published += other.published
        self.checked += other.checked
        self.stale += other.stale
        self.attaches += other.attaches
        self.detaches += other.detaches
        self.refusals += other.refusals
        self.events += other.events
        self.logged += other.logged
        self.error_count += other.error_count
        self.errors += other.errors[: _ERRORS_KEPT - len(self.errors)]

    def as_json(self) -> dict[str, object]:
        """For the result file."""
        # Not dataclasses.asdict: in CPython 3.12.1 it turns a Counter inside out.
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in ((each.name, getattr(self, each.name)) for each in fields(self))
        }


class SoakClient[A: tensorpool.Producer | tensorpool.Consumer]:
    """What producer and consumer share: they are attached or will be soon."""

    def __init__(self, pool: tensorpool.Pool, job: Job, tally: Tally) -> None:
        self.job = job
        self._pool = pool
        self._tally = tally
        self._attach_ns = 0
        self._attachment: A | None = None

    def step(self, now_ns: int) -> None:
        """Attach if it is time for that, else do what there is to do; never for long."""
        if now_ns < self._attach_ns:
            return
        try:
            if self._attachment is not None:
                self._work(self._attachment, now_ns)
            else:
                self._attachment = self._attach()
                self._tally.attaches += 1
        except _PASSING as error:
            self._tally.refusals[type(error).__name__] += 1
            self._attach_ns = now_ns + _AGAIN_NS
        except Exception as error:  # noqa: BLE001 - whatever it is, the soak reports it and goes on
            self._tally.fault(f"{self}: {type(error).__name__}: {error}")
            self._attach_ns = now_ns + _AGAIN_NS

    def detach(self, linger_s: float) -> None:
        """Detach; the next step attaches again. A producer waits `linger_s` for its readers."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            self._detach(attachment, linger_s)
            self._tally.detaches += 1

    def _attach(self) -> A:
        raise NotImplementedError

    def _work(self, attachment: A, now_ns: int) -> None:
        raise NotImplementedError

    def _detach(self, attachment: A, linger_s: float) -> None:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.job.role.value} {self.job.number} of stream {self.job.stream_id}"


class Publisher(SoakClient[tensorpool.Producer]):
    """Publishes at a fixed rate, without catching up."""

    def __init__(self, pool: tensorpool.Pool, job: Job, tally: Tally, rate_hz: float) -> None:
        super().__init__(pool, job, tally)
        self._period_ns = int(NS_PER_S / rate_hz)
        self._due_ns = 0
        self._number = 0

    def _attach(self) -> tensorpool.Producer:
        job = self.job
        producer = self._pool.producer(
            job.stream_id, client_id=job.client_id, timeout_s=ATTACH_TIMEOUT_S
        )
        producer.metadata(name=f"soak {job.number}", attributes={"client": job.number})
        return producer

    def _work(self, producer: tensorpool.Producer, now_ns: int) -> None:
        if now_ns < self._due_ns:
            return
        self._due_ns = max(self._due_ns + self._period_ns, now_ns)
        stream_id = self.job.stream_id
        if self.job.claims:
            size = words_of(producer.next_seq)
            with producer.claim(size, "uint64", timeout_s=0) as frame:
                if words_of(frame.seq) != size:
                    frame.abandon()  # a new lease has begun at seq 0 since we asked
                    return
                frame.array[:] = content(stream_id, frame.seq)
                frame.timestamp_ns = frame.seq
        else:
            producer.publish(
                content(stream_id, self._number), timestamp_ns=self._number, timeout_s=0
            )
            self._number += 1
        self._tally.published += 1

    def _detach(self, producer: tensorpool.Producer, linger_s: float) -> None:
        producer.close(linger_s)


class Reader(SoakClient[tensorpool.Consumer]):
    """Reads what there is and compares all of it."""

    def __init__(self, pool: tensorpool.Pool, job: Job, tally: Tally) -> None:
        super().__init__(pool, job, tally)
        self._last = (0, -1)

    def _attach(self) -> tensorpool.Consumer:
        job = self.job
        self._last = (0, -1)
        return self._pool.consumer(
            job.stream_id,
            client_id=job.client_id,
            timeout_s=ATTACH_TIMEOUT_S,
            own_stream=job.manner is Manner.OWN_STREAM,
        )

    def _work(self, consumer: tensorpool.Consumer, now_ns: int) -> None:
        take: Callable[[float], tensorpool.Frame | None] = (
            consumer.latest if self.job.manner is Manner.LATEST else consumer.next
        )
        for _ in range(_BATCH):
            frame = take(0)
            if frame is None:
                return
            self._check(frame)

    def _check(self, frame: tensorpool.Frame) -> None:
        job, tally = self.job, self._tally
        place = (frame.epoch, frame.seq)
        if place <= self._last:
            tally.fault(f"{self}: frame {place} after {self._last}")
        self._last = place
        number = frame.timestamp_ns
        if job.manner is Manner.CHECKED:
            try:
                with frame.checked() as array:
                    is_right = is_content(array, job.stream_id, number)
            except tensorpool.StaleFrame:
                tally.stale += 1
                return
        else:
            copied = frame.try_copy()
            if copied is None:
                tally.stale += 1
                return
            is_right = is_content(copied, job.stream_id, number)
        if not is_right:
            tally.fault(f"{self}: frame {place} is not what number {number} has")
        elif job.claims and number != frame.seq:
            tally.fault(f"{self}: frame {place} carries the number {number}")
        else:
            tally.checked += 1

    def _detach(self, consumer: tensorpool.Consumer, linger_s: float) -> None:
        if consumer.drops_invalid:
            self._tally.fault(f"{self}: {consumer.drops_invalid} frames with invalid headers")
        consumer.close()


def make_client(
    pool: tensorpool.Pool, job: Job, tally: Tally, *, rate_hz: float
) -> Publisher | Reader:
    """The client of a job."""
    if job.role is Role.PRODUCER:
        return Publisher(pool, job, tally, rate_hz)
    return Reader(pool, job, tally)
