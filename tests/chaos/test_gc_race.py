"""The epoch GC against a driver that makes epochs as fast as it can, with consumers following.

500 epochs by default; `make chaos` (TENSORPOOL_CHAOS_FULL=1) makes 10,000.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.gc_report import GcReport, read_report
from tensorpool.registry import RegistryReader
from tensorpool.shm import paths
from tensorpool.shm.uri import parse_region_uri
from tensorpool.wire.control import PayloadPool, ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import Role, ShmLeaseRevoked
from tests.chaos.length import IS_FULL
from tests.integration.host import DEADLINE_S, STREAM, RunningHost, Tables, running_host
from tests.support import wait_until
from tests.wire_client import WireClient, settings_of

BUMPS = 10_000 if IS_FULL else 500
CONSUMERS = 3
KEEP = 2
MIN_AGE_NS = 200 * NS_PER_MS
PATIENCE_NS = 5 * NS_PER_S
"""For the GC to come round to an epoch of age, on a machine that is busy with this test."""
LOOK_EVERY = 10
"""Producers between two looks at the directories."""
TABLES: Tables = {
    "supervisor": None,
    "profiles": {
        "default": {"header_nslots": 1, "payload_pools": [{"pool_id": 1, "stride_bytes": 64}]}
    },
    "policies": {"epoch_gc_keep": KEEP, "epoch_gc_min_age_ns": MIN_AGE_NS},
}
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Followed:
    """What one consumer has seen.

    Attributes:
        uses: checks of the mapped files.
        maps: epochs mapped.
        behind: times that a file was gone, but a newer announce was there to be read.
        faults: what must never happen.
    """

    uses: int = 0
    maps: int = 0
    behind: int = 0
    faults: list[str] = field(default_factory=list)


class Follower:
    """A consumer that keeps its current epoch's files open and looks whether they are there."""

    def __init__(self, wire: WireClient, client_id: int) -> None:
        self.seen = Followed()
        self._wire = wire
        self._client_id = client_id
        answer = wire.attach(STREAM, Role.CONSUMER, client_id)
        assert answer.code == ResponseCode.OK, answer
        self._lease_id = answer.lease_id or 0
        self._epoch = 0
        self._files: list[tuple[str, int]] = []
        self._is_gone = False
        self._keepalive_ns = 0
        self._map(answer.epoch or 0, answer.header_region_uri, answer.payload_pools)

    def step(self) -> int:
        """Keep alive, follow, and use what is mapped; how many messages came."""
        now_ns = monotonic_ns()
        if now_ns >= self._keepalive_ns:
            interval_ns = self._wire.settings.policies.lease_keepalive_interval_ns
            self._keepalive_ns = now_ns + interval_ns // 4
            self._wire.keep_alive(self._lease_id, STREAM, self._client_id, Role.CONSUMER)
        count = self._follow()
        self._use()
        return count

    def leave(self) -> None:
        """Detach and close the files."""
        self._wire.detach(self._lease_id, STREAM, self._client_id, Role.CONSUMER)
        self._unmap()

    def _follow(self) -> int:
        count = self._wire.poll()
        heard, self._wire.heard = self._wire.heard, []
        for message in heard:
            if isinstance(message, ShmLeaseRevoked) and message.lease_id == self._lease_id:
                self.seen.faults.append(f"revoked: {message}")
        newest = max(
            (m for m in heard if isinstance(m, ShmPoolAnnounce) and m.stream_id == STREAM),
            key=lambda m: m.epoch,
            default=None,
        )
        if newest is not None and newest.epoch > self._epoch:
            self._map(newest.epoch, newest.header_region_uri, newest.payload_pools)
        return count

    def _use(self) -> None:
        self.seen.uses += 1
        if self._is_whole():
            return
        epoch = self._epoch
        while self._follow():
            pass
        if self._epoch == epoch:
            self.seen.faults.append(f"epoch {epoch} lost its files, and none newer is announced")
        else:
            self.seen.behind += 1

    def _is_whole(self) -> bool:
        """Whether each file still has the name and the inode that were mapped."""
        try:
            return not self._is_gone and all(
                os.path.samestat(os.stat(path), os.fstat(fd)) and os.fstat(fd).st_nlink == 1
                for path, fd in self._files
            )
        except FileNotFoundError:
            return False

    def _map(self, epoch: int, header_uri: str, pools: tuple[PayloadPool, ...]) -> None:
        self._unmap()
        self._epoch = epoch
        self.seen.maps += 1
        self._is_gone = False
        for uri in [header_uri, *(pool.region_uri for pool in pools)]:
            path = parse_region_uri(uri).path
            try:
                self._files.append((path, os.open(path, os.O_RDONLY)))
            except FileNotFoundError:
                self._is_gone = True

    def _unmap(self) -> None:
        for _, fd in self._files:
            os.close(fd)
        self._files.clear()


def follow(pipe: Connection, config: str, client_id: int) -> None:
    """A consumer's process: follows until told to end, then reports."""
    with WireClient(settings_of(config)) as wire:
        follower = Follower(wire, client_id)
        pipe.send(None)
        while not pipe.poll():
            if follower.step() == 0:
                time.sleep(0.001)
        follower.leave()
        pipe.send(follower.seen)


@contextmanager
def follower_process(config: str, client_id: int) -> Iterator[Connection]:
    """A consumer that has its lease; ended by force if it did not end."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=follow, args=(theirs, config, client_id), daemon=True)
    process.start()
    theirs.close()
    try:
        receive(ours)
        yield ours
    finally:
        with suppress(OSError):
            ours.send(None)
        process.join(DEADLINE_S)
        process.kill()
        process.join()


def receive(pipe: Connection) -> object:
    assert pipe.poll(DEADLINE_S), "a consumer does not answer"
    answer: object = pipe.recv()
    return answer


def account(host: RunningHost) -> GcReport | None:
    return read_report(host.settings.shm.namespace_dir)


def whole_account(host: RunningHost) -> GcReport | None:
    """The GC's, once it tells of every epoch that has to be gone."""
    report = account(host)
    return report if report is not None and report.deleted >= BUMPS - KEEP else None


def epochs_of(host: RunningHost) -> list[int]:
    """Directories of the stream's epochs, the newest first."""
    names = os.listdir(paths.stream_dir(host.settings.shm.namespace_dir, STREAM))
    return sorted(map(int, filter(str.isdigit, names)), reverse=True)


class Directories:
    """Watches the bound: `KEEP` epochs, and those that are not of age.

    An epoch is its making's wall-clock time, so names tell since when the oldest is not among
    the newest `KEEP`.
    """

    def __init__(self, host: RunningHost) -> None:
        self._host = host
        self.most = 0
        self.longest_overdue_ns = 0

    def look(self) -> None:
        epochs = epochs_of(self._host)
        self.most = max(self.most, len(epochs))
        if len(epochs) > KEEP:
            overdue_ns = time.time_ns() - epochs[-1 - KEEP] - MIN_AGE_NS
            self.longest_overdue_ns = max(self.longest_overdue_ns, overdue_ns)
            assert overdue_ns < PATIENCE_NS, f"the GC does not follow: {len(epochs)}"


def bumps_of(host: RunningHost) -> int:
    with RegistryReader(host.settings.shm.registry_path) as registry:
        return next(r.epoch_bumps for r in registry.streams() if r.stream_id == STREAM)


@pytest.mark.timeout(BUMPS // 10 + 120)
def test_no_mapped_epoch_is_ever_deleted(tmp_shm: Path) -> None:
    with (
        running_host(tmp_shm, TABLES) as host,
        WireClient(settings_of(str(host.config))) as wire,
        ExitStack() as stack,
    ):
        pipes = [
            stack.enter_context(follower_process(str(host.config), 100 + n))
            for n in range(CONSUMERS)
        ]
        directories = Directories(host)
        started_ns = monotonic_ns()
        epoch, producers = 0, 0
        while (bumps := bumps_of(host)) < BUMPS:
            for _ in range(LOOK_EVERY):
                wire.heard.clear()
                producers += 1
                answer = wire.attach(STREAM, Role.PRODUCER, 1000 + producers)
                assert answer.code == ResponseCode.OK, answer
                assert answer.epoch is not None
                assert answer.epoch > epoch
                wire.detach(answer.lease_id or 0, STREAM, 1000 + producers, Role.PRODUCER)
                epoch = wire.announce(STREAM, above=answer.epoch).epoch
            directories.look()
        took_s = (monotonic_ns() - started_ns) / NS_PER_S

        for pipe in pipes:
            pipe.send(None)
        followed = [receive(pipe) for pipe in pipes]
        wait_until(
            lambda: len(epochs_of(host)) == KEEP,
            DEADLINE_S,
            lambda: f"the bound, {KEEP} directories: {epochs_of(host)}",
        )
        # It tells of a pass when that is over: later than the last directory goes.
        report = wait_until(
            lambda: whole_account(host), DEADLINE_S, lambda: f"the GC's account: {account(host)}"
        )
        assert report is not None
        # Shown by `pytest -rP`.
        sys.stdout.write(
            f"{bumps} epochs in {took_s:.1f} s, at most {directories.most} directories, "
            f"longest overdue {directories.longest_overdue_ns / NS_PER_MS:.0f} ms\n"
            f"gc {report}\n" + "".join(f"{seen}\n" for seen in followed)
        )
        for seen in followed:
            assert isinstance(seen, Followed)
            assert not seen.faults
            assert seen.maps > 1
            assert seen.uses > seen.maps
