"""A namespace with real directories, region heads and registries, for tests of the epoch GC."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorpool.clock import monotonic_ns
from tensorpool.config import load, to_settings
from tensorpool.registry import (
    BumpReason,
    DriverState,
    LeaseRecord,
    LeaseState,
    RegistryWriter,
    StreamRecord,
    own_identity,
)
from tensorpool.settings import HostSettings
from tensorpool.shm.superblock import encode_superblock, header_ring_layout, payload_pool_layout

STREAM = 10_000
POOL_BYTES = 8192
REGION_NAMES = ("header.ring", "1.pool", "2.pool")
SECOND_NS = 1_000_000_000


class World:
    """One namespace below `base`, and the driver's part of it, played step by step."""

    def __init__(
        self,
        base: Path,
        *,
        keep: int = 2,
        min_age_ns: int = 0,
        enabled: bool = True,
        on_startup: bool = False,
    ) -> None:
        settings = to_settings(load(None, {}).config)
        self.settings: HostSettings = dataclasses.replace(
            settings,
            shm=dataclasses.replace(
                settings.shm,
                base_dir=str(base / "base"),
                namespace="test",
                allowed_base_dirs=(str(base / "base"),),
            ),
            policies=dataclasses.replace(
                settings.policies,
                epoch_gc_keep=keep,
                epoch_gc_min_age_ns=min_age_ns,
                epoch_gc_enabled=enabled,
                epoch_gc_on_startup=on_startup,
                shutdown_timeout_ns=SECOND_NS // 10,
            ),
        )
        self.dir = Path(self.settings.shm.namespace_dir)
        self.dir.mkdir(parents=True, mode=0o700)
        self.writer: RegistryWriter | None = None
        self._bumps: dict[int, int] = {}

    # -- the driver -----------------------------------------------------------------------

    def start_driver(self, state: DriverState = DriverState.SERVING) -> RegistryWriter:
        """A driver in this process, in place of a former one."""
        self.stop_driver()
        self._bumps.clear()
        self.writer = RegistryWriter(
            self.settings.shm.registry_path, max_streams=8, max_leases=16, mode=0o600
        )
        self.writer.set_state(state)
        self.writer.publish()
        return self.writer

    def stop_driver(self) -> None:
        """The driver dies; what it last said of itself stays."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def put_stream(
        self,
        epoch: int,
        *,
        last: int | None = None,
        stream: int = STREAM,
        index: int = 0,
        reason: BumpReason = BumpReason.PRODUCER_ATTACHED,
        bumps: int = 2,
    ) -> None:
        """The registry's record of a stream."""
        assert self.writer is not None
        last = epoch if last is None else last
        record = StreamRecord(
            stream, 4, epoch, last, 0, 0, 1, reason, 0, 0, 0, bumps, "cam", "default"
        )
        self.writer.write_stream(index, record)

    def put_lease(
        self, lease: int, epoch: int, *, stream: int = STREAM, state: int = LeaseState.ACTIVE
    ) -> None:
        """The registry's record of a lease, at index `lease`."""
        assert self.writer is not None
        record = LeaseRecord(lease, stream, 7, 1, state, 0, 1, 1, 0, epoch, 0, 0, 0)
        self.writer.write_lease(lease, record)

    def bump(self, epoch: int, *, stream: int = STREAM, index: int = 0) -> None:
        """Make an epoch in the driver's order of steps, and put it into service."""
        assert self.writer is not None
        self.writer.heartbeat()
        bumps = self._bumps.get(stream, 0)
        former = max((int(n) for n in self.names(stream) if n.isdigit()), default=0)
        self.put_stream(former if bumps else 0, last=epoch, stream=stream, index=index, bumps=bumps)
        self.make_epoch(epoch, stream=stream)
        self._bumps[stream] = bumps + 1
        self.put_stream(epoch, stream=stream, index=index, bumps=bumps + 1)
        self.writer.count_epoch_change()

    # -- directories ----------------------------------------------------------------------

    def stream_dir(self, stream: int = STREAM) -> Path:
        return self.dir / str(stream)

    def epoch_dir(self, epoch: int, stream: int = STREAM) -> Path:
        return self.stream_dir(stream) / str(epoch)

    def names(self, stream: int = STREAM) -> set[str]:
        """What lies in a stream's directory."""
        try:
            return set(os.listdir(self.stream_dir(stream)))
        except FileNotFoundError:
            return set()

    def make_epoch(
        self,
        epoch: int,
        *,
        stream: int = STREAM,
        pid: int | None = None,
        stamped_ns: int | None = None,
        active_ns: int | None = None,
    ) -> Path:
        """An epoch, made under another name and renamed. Its default stamp: us, an hour ago."""
        path = self.epoch_dir(epoch, stream)
        # Named as the driver's own: under another's the GC may take it as half made.
        me = own_identity()
        staging = path.with_name(f".staging-{epoch}-{me.pid}-{me.start_ticks}")
        self.fill(
            staging, epoch, stream=stream, pid=pid, stamped_ns=stamped_ns, active_ns=active_ns
        )
        staging.rename(path)
        return path

    def fill(
        self,
        path: Path,
        epoch: int,
        *,
        stream: int = STREAM,
        pid: int | None = None,
        stamped_ns: int | None = None,
        active_ns: int | None = None,
    ) -> None:
        """Region files with true superblocks in a new directory `path`."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700)
        now_ns = monotonic_ns()
        active_ns = 1 if active_ns is None else active_ns
        stamped_ns = now_ns if stamped_ns is None else stamped_ns
        layouts = (
            header_ring_layout(stream, epoch, 4, 256),
            payload_pool_layout(stream, epoch, 4, 1, 64),
            payload_pool_layout(stream, epoch, 4, 2, 128),
        )
        for name, layout in zip(REGION_NAMES, layouts, strict=True):
            head = bytearray(
                encode_superblock(layout, pid=os.getpid() if pid is None else pid, now_ns=active_ns)
            )
            head[48:56] = stamped_ns.to_bytes(8, "little")
            (path / name).write_bytes(bytes(head).ljust(POOL_BYTES, b"\0"))


@contextmanager
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that is not our driver."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        process.wait()
