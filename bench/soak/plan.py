"""What a soak is made of: streams, clients, the processes that they live in, and the pace."""

from __future__ import annotations

import enum
from dataclasses import dataclass

FIRST_STREAM = 10000
WORKERS = 6
MORTAL_WORKERS = 2
"""The last workers of a plan are those that are killed; the memory of the others is watched."""
LEAST_WORKERS = 3
_FIRST_FIXED_ID = 1_000_000
_TERM_LENGTH = "256k"


class Role(enum.Enum):
    """What a client does."""

    PRODUCER = "producer"
    CONSUMER = "consumer"


class Manner(enum.Enum):
    """How a consumer reads."""

    COPY = "copy"
    CHECKED = "checked"
    OWN_STREAM = "own stream"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Job:
    """One client, attached and detached over and over.

    Attributes:
        number: counts the clients of the soak.
        client_id: a fixed one, None for a new one at each attach.
        claims: whether a producer writes in place (`claim`) or copies (`publish`).
        manner: of a consumer.
    """

    number: int
    role: Role
    stream_id: int
    client_id: int | None
    claims: bool
    manner: Manner


@dataclass(frozen=True, slots=True)
class Plan:
    """The size and pace of a soak.

    Attributes:
        minutes: how long it is judged.
        warm_up_minutes: how long before that, from the first sample on, while what is bounded
            fills up: a pool's last 1,000 events, the allocators' and the interpreter's stocks.
        warm_up_haste: how many times as often clients detach, and are stopped, meanwhile.
        streams: static streams of the host.
        clients: a third of them produce, but one a stream at most; the others consume.
        rate_hz: frames a second of each producer.
        churn_hz: clients that detach and attach again a second, of all workers together.
        sample_s: time between two samples.
        kill_s: time between two SIGKILLs of a worker.
        freeze_s: time between two workers being stopped for longer than their leases live.
    """

    minutes: float = 60
    warm_up_minutes: float = 8
    warm_up_haste: float = 2
    streams: int = 100
    clients: int = 300
    rate_hz: float = 5
    churn_hz: float = 3
    sample_s: float = 5
    kill_s: float = 45
    freeze_s: float = 100

    @property
    def workers(self) -> int:
        """Processes that the clients are spread over."""
        return max(LEAST_WORKERS, min(WORKERS, self.producers))

    @property
    def producers(self) -> int:
        """How many of the clients produce."""
        return min(self.streams, max(1, self.clients // 3))

    @property
    def steady_workers(self) -> int:
        """How many of them, the first ones, are never killed."""
        return self.workers - min(MORTAL_WORKERS, self.workers - 1)

    def jobs(self) -> list[list[Job]]:
        """The clients of each worker; a stream's producer and consumers in different ones."""
        producers = self.producers
        crews: list[list[Job]] = [[] for _ in range(self.workers)]
        for number in range(self.clients):
            is_producer = number < producers
            turn = number if is_producer else number - producers
            place, lap = turn % producers, turn // producers
            away = 0 if is_producer else 1 + lap % (self.workers - 1)
            crews[(place + away) % self.workers].append(
                Job(
                    number,
                    Role.PRODUCER if is_producer else Role.CONSUMER,
                    FIRST_STREAM + place,
                    # A crashed producer's successor with the same id is let in at once.
                    _FIRST_FIXED_ID + number if number % 2 else None,
                    claims=is_claimed(FIRST_STREAM + place),
                    manner=list(Manner)[number % len(Manner)],
                )
            )
        return crews


def is_claimed(stream_id: int) -> bool:
    """Whether this stream's producer writes in place: then a frame's number is its seq."""
    return stream_id % 4 < 2  # noqa: PLR2004 - half of the streams, fixed ids in either half


def host_config(root: str, streams: int) -> str:
    """The host's configuration file.

    The terms are short, so that the sparse log buffers of the longest-lived publications are
    full within the warm-up: with the default of 4 MiB they fill for hours, up to a bound that is
    known beforehand, and every series of shared memory would seem to grow. On a machine that is
    shared, a process that waits for the processor for some seconds is not hung.
    """
    channel = f"aeron:ipc?term-length={_TERM_LENGTH}"
    kinds = ("control", "announce", "qos", "metadata")
    shared = "".join(f'{kind}_channel = "{channel}"\n' for kind in kinds)
    listed = "".join(
        f'[streams.s{number}]\nstream_id = {FIRST_STREAM + number}\nprofile = "soak"\n'
        for number in range(streams)
    )
    return f"""\
[driver]
aeron_dir = "{root}/aeron"
{shared}descriptor_channel = "{channel}"
announce_stream_id = 1001
[shm]
base_dir = "{root}/shm"
[policies]
max_streams = {max(streams, 256)}
[profiles.soak]
header_nslots = 16
payload_pools = [{{ pool_id = 1, stride_bytes = 4096 }}]
{listed}[supervisor]
{shared}per_consumer_descriptor_channel = "{channel}"
per_consumer_control_channel = "{channel}"
per_consumer_enabled = true
per_consumer_descriptor_base = 31000
per_consumer_descriptor_range = 1000
per_consumer_control_base = 32000
per_consumer_control_range = 1000
consumer_capacity = 512
[launcher]
hang_timeout_ms = 60000
[metrics]
enabled = true
"""
