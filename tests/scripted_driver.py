"""A driver that does as it is told, right or wrong: the adversary of client tests.

Real Aeron, our codecs, regions under names that no rule could derive. It runs on a thread of
its own, so that a client under test may block.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer, Subscription
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.settings import Endpoint, HostSettings
from tensorpool.shm.layout import SUPERBLOCK_BYTES, header_slot_offset, payload_slot_offset
from tensorpool.shm.region import region_bytes
from tensorpool.shm.superblock import (
    MAGIC,
    RegionLayout,
    header_ring_layout,
    payload_pool_layout,
)
from tensorpool.wire.control import (
    CONTROL,
    ClockDomain,
    Dtype,
    FrameDescriptor,
    MajorOrder,
    PayloadPool,
    ProgressUnit,
    ResponseCode,
    ShmPoolAnnounce,
    ShmRegionSuperblock,
    SlotHeader,
    TensorHeader,
)
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmLeaseRevoked,
)
from tests.support import wait_until

STREAM = 10000
NSLOTS = 8
STRIDES = {7: 128, 3: 4096}
"""Stride by pool id; the smaller pool has the larger id."""
DEADLINE_S = 10.0
LEASE_NS = 10 * NS_PER_S
PAYLOAD = bytes(range(12))

type Answer = Callable[[ShmAttachRequest], list[Any]]


def silence(_: ShmAttachRequest) -> list[Any]:
    """No answer at all."""
    return []


class Regions:
    """One epoch's files, mapped for the test to write and read.

    Args:
        directory: where they are made, under names of no meaning.
        superblocks: fields of every superblock to falsify.
    """

    def __init__(self, directory: Path, epoch: int, /, **superblocks: int) -> None:
        self.epoch = epoch
        self.files: list[Path] = []
        self._directory = directory
        self._false = superblocks
        self.ring, self.header_uri = self._make(header_ring_layout(STREAM, epoch, NSLOTS, 256))
        self.pools: dict[int, mmap.mmap] = {}
        entries = []
        for pool_id, stride in STRIDES.items():
            layout = payload_pool_layout(STREAM, epoch, NSLOTS, pool_id, stride)
            self.pools[pool_id], uri = self._make(layout)
            entries.append(PayloadPool(pool_id, NSLOTS, stride, uri))
        self.payload_pools = tuple(entries)

    def _make(self, layout: RegionLayout) -> tuple[mmap.mmap, str]:
        path = self._directory / f"{random.getrandbits(64):x}"
        now_ns = monotonic_ns()
        plain = ShmRegionSuperblock(MAGIC, *layout, os.getpid(), now_ns, now_ns)
        block = CONTROL.by_type[ShmRegionSuperblock].encode_body(plain._replace(**self._false))
        path.write_bytes(block.ljust(region_bytes(layout), b"\0"))
        path.chmod(0o660)
        self.files.append(path)
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), 0), f"shm:file?path={path}"

    def overwrite_superblocks(self, **fields: int) -> None:
        """Change fields of every superblock in place."""
        codec = CONTROL.by_type[ShmRegionSuperblock]
        for memory in (self.ring, *self.pools.values()):
            block, _ = codec.decode_body(memory[:SUPERBLOCK_BYTES], 0)
            memory[:SUPERBLOCK_BYTES] = codec.encode_body(block._replace(**fields))

    def slot(self, seq: int) -> SlotHeader:
        """The slot of frame `seq` as it stands in memory."""
        offset = header_slot_offset(seq % NSLOTS)
        raw = self.ring[offset : offset + 256]
        header: SlotHeader
        header, _ = CONTROL.by_type[SlotHeader].decode_body(raw, 0)
        return header

    def payload(self, header: SlotHeader) -> bytes:
        """The payload bytes that a slot refers to."""
        at = payload_slot_offset(header.payload_slot, STRIDES[header.pool_id])
        return self.pools[header.pool_id][at : at + header.values_len_bytes]

    def write(
        self, seq: int, *, tensor: dict[str, Any] | None = None, raw: bytes = b"", **slot: Any
    ) -> None:
        """Commit a frame of 12 bytes in pool 7, fields falsified as told.

        `raw` replaces the embedded message.
        """
        header = TensorHeader(
            Dtype.UINT8, MajorOrder.ROW, 2, 0, ProgressUnit.NONE, 0,
            (3, 4, 0, 0, 0, 0, 0, 0), (4, 1, 0, 0, 0, 0, 0, 0),
        )._replace(**tensor or {})  # fmt: skip
        index = seq % NSLOTS
        fields = SlotHeader(
            seq << 1 | 1, len(PAYLOAD), index, 7, 0, 5, 0, bytes(26), raw or wire.encode(header)
        )._replace(**slot)
        at = payload_slot_offset(index, STRIDES[7])
        self.pools[7][at : at + len(PAYLOAD)] = PAYLOAD
        body = CONTROL.by_type[SlotHeader].encode_body(fields)
        offset = header_slot_offset(index)
        self.ring[offset : offset + 256] = body[:256].ljust(256, b"\0")


class ScriptedDriver:
    """Answers attaches by `answers`, honestly when that is empty; records all it hears.

    Attributes:
        regions: what an honest answer names.
        heard: messages of schema 901 and hellos, in order, this driver's own excepted.
        lease_ids: of the leases that it has given out.
    """

    def __init__(self, settings: HostSettings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.answers: deque[Answer] = deque()
        self.heard: list[Any] = []
        self.lease_ids: list[int] = []
        self._epochs = itertools.count(monotonic_ns())
        self._leases = itertools.count(random.getrandbits(40))
        self.regions = self.new_regions()
        self._outgoing: SimpleQueue[tuple[Endpoint, bytes]] = SimpleQueue()
        driver = settings.driver
        self._client = AeronClient(settings.aeron_dir, "scripted-driver")
        self._subscription = self._client.subscription(driver.control, tether=True)
        self._publications = {
            endpoint: self._client.publication(endpoint)
            for endpoint in {driver.control, driver.announce, driver.descriptor}
        }
        self._own = {publication.session_id for publication in self._publications.values()}
        wait_until(self._is_alone, DEADLINE_S, "the sessions of the last case to be gone")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted-driver")
        self._thread.start()

    def subscription(self, endpoint: Endpoint) -> Subscription:
        """Another ear, for the test to poll."""
        return self._client.subscription(endpoint)

    # -- what it says -----------------------------------------------------------------------

    def new_regions(self, **superblocks: int) -> Regions:
        """Regions of the next epoch, not told to anybody yet."""
        return Regions(self.directory, next(self._epochs), **superblocks)

    def ok(self, request: ShmAttachRequest, **changes: Any) -> ShmAttachResponse:
        """An honest answer with `changes`."""
        self.lease_ids.append(next(self._leases))
        regions = self.regions
        return ShmAttachResponse(
            request.correlation_id,
            ResponseCode.OK,
            self.lease_ids[-1],
            monotonic_ns() + LEASE_NS,
            STREAM,
            regions.epoch,
            1,
            NSLOTS,
            256,
            1,
            regions.payload_pools,
            regions.header_uri,
        )._replace(**changes)

    def answer_with(self, **changes: Any) -> None:
        """Answer the next attach with OK but for `changes`."""
        self.answers.append(lambda request: [self.ok(request, **changes)])

    def reject_with(self, code: int, message: str) -> None:
        """Refuse the next attach."""
        self.answers.append(
            lambda request: [ShmAttachResponse(request.correlation_id, code, error_message=message)]
        )

    def send(self, message: Any, endpoint: Endpoint | None = None) -> None:
        """Send a message, or bytes, on the control stream or another."""
        data = message if type(message) is bytes else wire.encode(message)
        self._outgoing.put((endpoint or self.settings.driver.control, data))

    def announce(self, regions: Regions | None = None, **changes: Any) -> None:
        """Announce regions, by default the current ones, as of now."""
        regions = regions or self.regions
        plain = ShmPoolAnnounce(
            STREAM, 0, regions.epoch, monotonic_ns(), ClockDomain.MONOTONIC, 1, NSLOTS, 256,
            regions.payload_pools, regions.header_uri,
        )  # fmt: skip
        self.send(plain._replace(**changes), self.settings.driver.announce)

    def describe(self, seq: int, endpoint: Endpoint | None = None, /, **changes: Any) -> None:
        """Send the descriptor of a frame in the current regions, by default to all."""
        plain = FrameDescriptor(STREAM, self.regions.epoch, seq)
        self.send(plain._replace(**changes), endpoint or self.settings.driver.descriptor)

    def revoke(self, lease_id: int, role: int, /, **changes: Any) -> None:
        """Revoke a lease."""
        plain = ShmLeaseRevoked(
            monotonic_ns(), lease_id, STREAM, 1, role, LeaseRevokeReason.REVOKED
        )
        self.send(plain._replace(**changes))

    def revoke_producer(self) -> None:
        """The lease of some producer of the stream ends."""
        self.revoke(next(self._leases), Role.PRODUCER)

    # -- what it hears ----------------------------------------------------------------------

    def of(self, kind: type) -> list[Any]:
        """Everything of this kind heard so far."""
        return [message for message in list(self.heard) if type(message) is kind]

    def await_count(self, kind: type, count: int) -> list[Any]:
        """Wait until so many of this kind were heard."""
        wait_until(lambda: len(self.of(kind)) >= count, DEADLINE_S, lambda: f"{kind}: {self.heard}")
        return self.of(kind)

    def await_another(self, kind: type, count: int = 1) -> Any:
        """Wait for another one of this kind; the newest of `count` that come."""
        return self.await_count(kind, len(self.of(kind)) + count)[-1]

    # -- its thread -------------------------------------------------------------------------

    def _is_alone(self) -> bool:
        self._subscription.poll(lambda *_: None, 100)
        return self._subscription.session_ids() <= self._own

    def _run(self) -> None:
        while not self._stop.wait(0.0005):
            self._subscription.poll(self._on_fragment, 100)
            self._flush()

    def _flush(self) -> None:
        while True:
            try:
                endpoint, data = self._outgoing.get_nowait()
            except Empty:
                return
            if endpoint not in self._publications:
                self._publications[endpoint] = self._client.publication(endpoint)
            while self._publications[endpoint].offer(data) is Offer.BACK_PRESSURED:
                continue

    def _on_fragment(self, buffer: memoryview, session_id: int) -> None:
        if session_id in self._own:
            return
        message = wire.decode(buffer)
        self.heard.append(message)
        if isinstance(message, ShmAttachRequest):
            answer = self.answers.popleft() if self.answers else lambda r: [self.ok(r)]
            for response in answer(message):
                self.send(response)
        elif isinstance(message, ShmDetachRequest):
            self.send(ShmDetachResponse(message.correlation_id, ResponseCode.OK))

    def close(self) -> None:
        """Vanish."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
