"""A host on a small file system of its own, the users that stream through it, and an observer."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tensorpool.clock import NS_PER_MS
from tensorpool.settings import EPOCHS_AHEAD
from tensorpool.shm.paths import STAGING_PREFIX
from tests.chaos.rounds import users
from tests.chaos.rounds.observer import Observed, observe
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, Tables
from tests.leftovers import unique_shm_directory
from tests.peers import Peer, Report, consume_frames, produce_frames
from tests.support import wait_until

SECOND, CHURNED, SPARE = 20000, 20001, 20002
"""Dynamic streams: with a producer and a consumer, with the churn, and for faults to use."""
CONSUMERS = 2
RATES_HZ = {STREAM: 200, SECOND: 100}
AGAIN = 20
"""So many new frames count as streaming."""
PATIENCE_S = 45.0
FILE_SYSTEM_BYTES = 512 << 20
"""Aeron's files of several media drivers: those of dead ones stay while a client maps them."""
FILE_SYSTEM_INODES = 2000
LAZY_CLIENT, FIRST_PRODUCER = 4_000_000, 6_000_000
KEEP = 2
MIN_AGE_NS = 300 * NS_PER_MS
_CHANNEL = "aeron:ipc?term-length=64k"

TABLES: Tables = {
    "driver": {
        # On the control stream, so that revocations and announces are in one order.
        "announce_stream_id": 1000,
        "control_channel": _CHANNEL,
        "qos_channel": _CHANNEL,
        "metadata_channel": _CHANNEL,
        "descriptor_channel": _CHANNEL,
    },
    "policies": {
        "allow_dynamic_streams": True,
        "announce_period_ms": 200,
        "lease_keepalive_interval_ms": 300,
        "node_id_reuse_cooldown_ms": 100,
        "epoch_gc_keep": KEEP,
        "epoch_gc_min_age_ns": MIN_AGE_NS,
        "epoch_gc_on_startup": True,
        "max_leases": 64,
        "prepare_ahead_max_bytes": 4 << 20,
        "max_streams": 16,
        "shutdown_timeout_ms": 1000,
    },
    "profiles": {
        "default": {
            "header_nslots": 16,
            "payload_pools": [
                {"pool_id": 1, "stride_bytes": 4096},
                {"pool_id": 2, "stride_bytes": 65536},
            ],
        }
    },
    # Term buffers are taken whole, so that a full file system refuses them and kills nobody.
    "media_driver": {"term_buffer_sparse_file": False, "untethered_window_limit_timeout_ms": 100},
    # Faults come faster than those of a host that is well.
    "launcher": {"crash_loop_restarts": 1000, "restart_backoff_max_ms": 200},
    "metrics": {"enabled": True},
}


@dataclass
class Seen:
    """What users noticed of a round.

    Attributes:
        silence_ns: each consumer's longest time between two frames.
        back_ns: from the end of the fault's cause until the last consumer's silence ended.
        events: of all users' pools.
    """

    silence_ns: list[int] = field(default_factory=list)
    back_ns: int = 0
    events: Counter[str] = field(default_factory=Counter)


class World:
    """One host with users.

    Attributes:
        directory: the file system's root, which holds everything of the host.
        producers, consumers: good users, by stream; a fault may replace one.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.host = RunningHost(directory, TABLES)
        self._seed = seed
        self._others: list[Peer] = []
        self.producers: dict[int, Peer] = {}
        self.consumers: dict[int, list[Peer]] = {}
        self._observer: Peer | None = None

    @property
    def once(self) -> Path:
        """Made by a driver that dies at a fault point, whenever it comes there."""
        return self.directory / "killed-once"

    # -- begin and end --------------------------------------------------------------------

    def start(self) -> None:
        """Bring up the host, the observer and every user."""
        config = str(self.host.config)
        self.host.start()
        self.host.wait_ready()
        self._observer = Peer(observe, config)
        self._observer.wait_attached()
        self.consumers = {
            STREAM: [self._consumer(STREAM) for _ in range(CONSUMERS)],
            SECOND: [self._consumer(SECOND)],
        }
        self._others = [
            Peer(users.churn, config, CHURNED, self._seed),
            Peer(users.be_lazy, config, STREAM, LAZY_CLIENT),
        ]
        for peer in [*self.all_consumers, *self._others]:
            peer.wait_attached()
        self.producers = {stream: self._producer(stream) for stream in RATES_HZ}
        for producer in self.producers.values():
            producer.wait_attached()
        self.wait_whole()

    def end(self) -> None:
        """Users leave, the host drains; asserts that nothing is left beyond policy."""
        for peer in [*self._others, *self.producers.values(), *self.all_consumers]:
            peer.stop()
        self.host.wait_ready()
        self.once.unlink(missing_ok=True)
        wait_until(lambda: not self._excess(), DEADLINE_S, lambda: f"the GC: {self._excess()}")
        if self._observer is not None:
            self._observer.stop()
        tree = self.host.descendants()
        assert self.host.stop() == 0, self.host.logged()
        _, alive = psutil.wait_procs(tree, DEADLINE_S)
        assert not alive, f"processes left: {alive}"
        assert not self.host.leftovers(), f"files left: {self.host.leftovers()}"

    def close(self) -> None:
        """End by force whatever is left."""
        peers = [*self._others, *self.producers.values(), *self.all_consumers]
        for peer in [*peers, *([self._observer] if self._observer else [])]:
            peer.kill()
        self.host.close()

    # -- users ----------------------------------------------------------------------------

    @property
    def all_consumers(self) -> list[Peer]:
        """Those that stream."""
        return [peer for peers in self.consumers.values() for peer in peers]

    @property
    def all_users(self) -> list[Peer]:
        """Every good user."""
        return [*self.producers.values(), *self.all_consumers]

    def replace_producer(self, stream_id: int) -> None:
        """SIGKILL it; another one takes its place as soon as the driver lets it."""
        self.producers[stream_id].kill()
        self.producers[stream_id] = self._producer(stream_id)
        self.producers[stream_id].wait_attached()

    def replace_consumer(self, stream_id: int) -> None:
        """SIGKILL one, and start another."""
        self.consumers[stream_id].pop(0).kill()
        other = self._consumer(stream_id)
        self.consumers[stream_id].append(other)
        other.wait_attached()

    def _producer(self, stream_id: int) -> Peer:
        client_id = FIRST_PRODUCER + stream_id
        return Peer(
            produce_frames, str(self.host.config), stream_id, RATES_HZ[stream_id], client_id
        )

    def _consumer(self, stream_id: int) -> Peer:
        return Peer(consume_frames, str(self.host.config), stream_id)

    # -- looking --------------------------------------------------------------------------

    def observed(self, excuse: tuple[int, float] | None = None) -> Observed:
        """What the observer has seen so far."""
        assert self._observer is not None
        answer = self._observer.ask(excuse if excuse is not None else 0)
        assert isinstance(answer, Observed)
        return answer

    def reports(self, *, reset_silence: bool = False) -> list[Report]:
        """Every good user's."""
        return [peer.report(reset_silence=reset_silence) for peer in self.all_users]

    def wait_whole(self) -> None:
        """Until the host is ready and every good user has handled new frames."""
        self.host.wait_ready()
        wanted = [report.frames + AGAIN for report in self.reports()]

        def all_stream() -> bool:
            return all(now.frames >= w for now, w in zip(self.reports(), wanted, strict=True))

        wait_until(all_stream, PATIENCE_S, lambda: f"frames {wanted}: {self.reports()}")

    def seen_since(self, released_ns: int, before: dict[int, Counter[str]]) -> Seen:
        """What users noticed since their silence was last reset."""
        seen = Seen()
        for peer in self.all_users:
            report = peer.report()
            seen.events += report.events - before.get(peer.pid, Counter())
        for peer in self.all_consumers:
            silence = peer.report().silence
            seen.silence_ns.append(silence.duration_ns)
            seen.back_ns = max(seen.back_ns, silence.ended_ns - released_ns)
        return seen

    def broken(self) -> list[str]:
        """Invariants broken so far."""
        return self.observed().broken + [
            f"frames of process {peer.pid}: {report}"
            for peer in self.all_users
            if (report := peer.report()).torn or report.disorder or report.drops_invalid
        ]

    def _excess(self) -> list[str]:
        """Directories of streams that hold more than the policy keeps and those made ahead."""
        found = []
        for stream in self.host.namespace_dir.iterdir():
            names = os.listdir(stream) if stream.is_dir() else []
            others = [name for name in names if not name.isdecimal()]
            if (
                len(names) - len(others) > KEEP
                or others[EPOCHS_AHEAD:]
                or not all(map(_is_staged, others))
            ):
                found.append(f"{stream.name}: {names}")
        return found


def _is_staged(name: str) -> bool:
    return name.startswith(STAGING_PREFIX)


@contextmanager
def world(seed: int) -> Iterator[World]:
    """A started world; judged at its end, and removed."""
    mounted = unique_shm_directory()
    options = f"size={FILE_SYSTEM_BYTES},nr_inodes={FILE_SYSTEM_INODES},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tp-chaos", mounted], check=True)
    made = World(mounted, seed)
    try:
        made.start()
        yield made
        made.end()
    finally:
        made.close()
        subprocess.run(["umount", "--lazy", mounted], check=True)
        mounted.rmdir()
