"""Garbage and floods on the control streams while honest clients live on short leases.

20,000 mutants in the suite, 1,000,000 with TENSORPOOL_CHAOS_FULL=1.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median

import psutil
import pytest

from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.registry import DriverState, LeaseState, RegistryReader
from tensorpool.wire.control import ConsumerConfig, ConsumerHello, Mode, ResponseCode
from tensorpool.wire.driver import (
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
)
from tests.chaos.length import IS_FULL
from tests.chaos.wire_mutants import seeded, shuffled
from tests.crowd import Attaching, Crowd
from tests.integration.host import STREAM, RunningHost, Tables, running_host
from tests.wire_client import WireClient, settings_of

MUTANTS = 1_000_000 if IS_FULL else 20_000
SEED = 20261123
HONEST = 20
FIRST_OF_FLOOD = 1_000_000
_FIRST_OF_PATRON = 100_000
BATCH = 32
DEADLINE_S = 100.0
GROWTH_BYTES = 16 << 20
"""What a process may have grown by after a million messages: tables at their capacity, no more."""

TABLES: Tables = {
    "driver": {"stream_id_range": "20000-20099"},
    "policies": {
        "lease_keepalive_interval_ms": 400,
        "lease_expiry_grace_intervals": 8,
        "max_leases": 2048,
        "max_streams": 64,
        "shutdown_token": "open-sesame",
        "node_id_reuse_cooldown_ms": 200,
        "epoch_gc_min_age_ns": 0,
    },
    "profiles": {
        "default": {"header_nslots": 8, "payload_pools": [{"pool_id": 1, "stride_bytes": 4096}]}
    },
    "supervisor": {"per_consumer_enabled": True, "consumer_capacity": 256},
}
_LIVE = {LeaseState.ACTIVE, LeaseState.ORPHANED}
WATCHED = ("driver", "supervisor", "gc", "media_driver")


class Attacker:
    """A session of its own that says anything to anybody: driver and supervisor listen."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        settings = client.settings
        assert settings.supervisor is not None
        endpoints = dict.fromkeys(
            [settings.driver.control, settings.supervisor.qos, settings.supervisor.metadata]
        )
        self._publications = [client.publication(endpoint) for endpoint in endpoints]
        self._dice = random.Random(SEED)
        self.sent = 0

    def send(self, data: bytes) -> None:
        """On the control stream mostly, on another sometimes; again while it takes nothing."""
        is_control = self._dice.random() < 0.8
        publication = self._publications[0 if is_control else self._dice.randrange(1, 3)]
        deadline_ns = monotonic_ns() + int(DEADLINE_S * NS_PER_S)
        while publication.offer(data) is not Offer.SENT:
            assert monotonic_ns() < deadline_ns, "nothing is taken any more"
            self._client.poll()
        self.sent += 1


@contextmanager
def honest_and_hostile(
    directory: Path,
) -> Iterator[tuple[RunningHost, WireClient, Crowd, WireClient]]:
    """A host with honest clients on it and a hostile session; all must be as before at the end."""
    with ExitStack() as stack:
        host = stack.enter_context(running_host(directory, TABLES))
        settings = settings_of(str(host.config))
        honest = stack.enter_context(WireClient(settings))
        hostile = stack.enter_context(WireClient(settings))
        crowd = Crowd(honest, STREAM, HONEST)
        before = {
            name: (host.pid_of(name), host.process_report(name)["restarts"]) for name in WATCHED
        }
        try:
            yield host, honest, crowd, hostile
        except AssertionError as error:
            error.add_note("\n".join(news_of(host)))
            raise
        hostile.close()
        honest.round_trip()
        # Not what is heard decides: on a shared stream a mutant of a revocation is heard as one.
        with RegistryReader(host.settings.shm.registry_path) as registry:
            assert registry.state is DriverState.SERVING
            active = {lease.lease_id for lease in registry.leases() if lease.state in _LIVE}
        assert set(crowd.leases.values()) <= active, "an honest lease was lost"
        after = {
            name: (host.pid_of(name), host.process_report(name)["restarts"]) for name in WATCHED
        }
        assert after == before, "\n".join(news_of(host))
        assert "Traceback" not in host.logged()
        # They do hang on their keepalives, and the driver still serves newcomers.
        answer = honest.attach(STREAM, Role.CONSUMER, 777)
        assert answer.code == ResponseCode.OK


def news_of(host: RunningHost) -> list[str]:
    """The last lines of its log that are no mere information."""
    return [line for line in host.logged().splitlines() if '"INFO"' not in line][-30:]


def private_bytes(host: RunningHost) -> dict[str, int]:
    """Resident memory of each process that is its own: without the pages of Aeron's logs."""
    infos = {name: psutil.Process(host.pid_of(name)).memory_info() for name in WATCHED}
    return {name: info.rss - info.shared for name, info in infos.items()}


def torment(data: Iterable[bytes], honest: WireClient, crowd: Crowd, hostile: WireClient) -> int:
    """Send all of it, the honest ones speaking and hearing in between; how many were sent."""
    attacker = Attacker(hostile)
    rest = iter(data)
    while batch := list(islice(rest, BATCH)):
        for item in batch:
            attacker.send(item)
        crowd.step()
        honest.poll()
        hostile.poll()
        hostile.heard.clear()
        honest.heard.clear()
    return attacker.sent


@pytest.mark.timeout(3600 if IS_FULL else 240)
def test_damaged_messages_harm_nobody(tmp_shm: Path) -> None:
    with honest_and_hostile(tmp_shm) as (host, honest, crowd, hostile):
        # Once through everything that allocates: what is compared is growth, not warming up.
        torment(shuffled(SEED), honest, crowd, hostile)
        torment(seeded(min(MUTANTS // 10, 20_000), SEED + 1), honest, crowd, hostile)
        before = private_bytes(host)
        started_ns = monotonic_ns()
        sent = torment(seeded(MUTANTS, SEED), honest, crowd, hostile)
        took_s = (monotonic_ns() - started_ns) / NS_PER_S
        honest.round_trip()
        growth = {name: after - before[name] for name, after in private_bytes(host).items()}
        # Shown by `pytest -rP`.
        sys.stdout.write(
            f"{sent} mutants of seed {SEED} in {took_s:.0f} s; growth in KiB: "
            f"{ {name: size >> 10 for name, size in growth.items()} }\n"
        )
        assert max(growth.values()) < GROWTH_BYTES, growth
        # The supervisor still answers.
        honest.send(ConsumerHello(STREAM, 4711, 1, 0, Mode.STREAM, 0, 1))
        honest.expect(ConsumerConfig, lambda m: m.consumer_id == 4711)


FLOOD_RATE_HZ = 10_000
FLOOD_S = 20.0 if IS_FULL else 4.0
FLOOD_CLIENTS = 1500
"""Fewer than there are leases: who takes them all has not flooded the driver but filled it."""
CROWD = 1000


class Flood:
    """One session that asks `FLOOD_RATE_HZ` times a second, and hears the answers."""

    def __init__(self, client: WireClient, *, is_valid: bool) -> None:
        self._client = client
        self._publication = client.publication(client.settings.driver.control)
        self._is_valid = is_valid
        self._started_ns = monotonic_ns()
        self._offered = 0
        self.sent = 0
        self.answered = 0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return (monotonic_ns() - self._started_ns) / NS_PER_S

    def step(self) -> None:
        """Ask what is due, hear what is there."""
        due = int(self.seconds * FLOOD_RATE_HZ)
        for number in range(self._offered, min(due, self._offered + 500)):
            data = wire.encode(self._request(number))
            self.sent += self._publication.offer(data) is Offer.SENT
        self._offered = due
        # All of it: it listens with a tether, and one that lags behind would stall the stream for
        # everybody (docs/security.md), which is another attack than this one.
        while self._client.poll():
            self.answered += sum(isinstance(m, ShmAttachResponse) for m in self._client.heard)
            self._client.heard.clear()

    def _request(self, number: int) -> ShmAttachRequest:
        # Without a client id it is refused; else granted, refused while that lease lives, expired.
        client_id = FIRST_OF_FLOOD + number % FLOOD_CLIENTS if self._is_valid else 0
        create = PublishMode.EXISTING_OR_CREATE
        return ShmAttachRequest(number, STREAM, client_id, Role.CONSUMER, publish_mode=create)


class Patron(Attaching):
    """An honest client that attaches, measured, while something else goes on."""

    def attach_during(self, step: Callable[[], object], client_id: int) -> None:
        """Ask, and do `step` until the answer is there; then detach."""
        started_ns = monotonic_ns()
        correlation_id = self.ask(STREAM, Role.CONSUMER, client_id)
        while (answer := self.answer(correlation_id)) is None:
            assert monotonic_ns() - started_ns < DEADLINE_S * NS_PER_S, "starved"
            step()
            self._crowd.step()
            while self._wire.poll():
                self._wire.heard[:] = [
                    m for m in self._wire.heard if isinstance(m, ShmAttachResponse)
                ]
        self.waits_ns.append(monotonic_ns() - started_ns)
        assert answer.code == ResponseCode.OK, answer
        assert answer.lease_id is not None
        self._wire.heard.clear()
        self._wire.send(
            ShmDetachRequest(correlation_id, answer.lease_id, STREAM, client_id, Role.CONSUMER)
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_valid", [False, True], ids=["refused", "granted"])
def test_a_flood_of_attaches_from_one_client(tmp_shm: Path, is_valid: bool) -> None:
    """One session asks 10,000 times a second; the others' attaches are served in between."""
    with honest_and_hostile(tmp_shm) as (_, honest, crowd, hostile):
        quiet, flooded = Patron(honest, crowd), Patron(honest, crowd)
        ids = itertools.count(
            _FIRST_OF_PATRON
        )  # a new one each time: the one before may not have left yet
        for _ in range(100):
            quiet.attach_during(hostile.poll, next(ids))
        flood = Flood(hostile, is_valid=is_valid)
        while flood.seconds < FLOOD_S:
            flooded.attach_during(flood.step, next(ids))
        seconds = flood.seconds
        sys.stdout.write(
            f"flood: {flood.sent / seconds:.0f} attaches a second sent, "
            f"{flood.answered / seconds:.0f} answered; others' {flooded.figures()}; "
            f"without a flood {quiet.figures()}\n"
        )
        assert flood.sent > FLOOD_S * FLOOD_RATE_HZ / 10, "no flood: this proves nothing"
        assert flood.answered > 0
        assert len(flooded.waits_ns) > 1


@pytest.mark.timeout(300)
def test_a_thousand_clients_attach_at_once(tmp_shm: Path) -> None:
    with honest_and_hostile(tmp_shm) as (_, honest, crowd, hostile):
        asking, meanwhile = Attaching(hostile, crowd), Patron(honest, crowd)
        wanted = {
            asking.ask(STREAM, Role.CONSUMER, FIRST_OF_FLOOD + number) for number in range(CROWD)
        }
        started_ns = monotonic_ns()
        granted: dict[int, int | None] = {}

        def hear() -> None:
            hostile.poll()
            for message in hostile.heard:
                # Answers are broadcast: the honest one's are among them.
                if isinstance(message, ShmAttachResponse) and message.correlation_id in wanted:
                    granted[message.correlation_id] = message.lease_id
            hostile.heard.clear()

        ids = itertools.count(_FIRST_OF_PATRON)
        while len(granted) < CROWD:
            meanwhile.attach_during(hear, next(ids))
        took_ms = (monotonic_ns() - started_ns) / NS_PER_MS
        sys.stdout.write(
            f"{CROWD} clients attached in {took_ms:.0f} ms; meanwhile another's "
            f"{median(meanwhile.waits_ns) / NS_PER_MS:.2f} ms\n"
        )
        assert None not in granted.values()
        assert len(set(granted.values())) == CROWD
