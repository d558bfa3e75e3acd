"""The lease registry: the driver's state in shared memory, for every other process to read.

One file per namespace (`ShmSettings.registry_path`), one writer (the driver), any number
of lock-free readers. Little-endian, version 2:

    offset  bytes  content
    0       64     header, written once before the file gets its name:
                   u64 magic "TPREGIS1", u32 version, u32 max_streams, u32 max_leases,
                   u32 writer_pid, u64 writer_start (clock ticks since boot, /proc/PID/stat),
                   u64 created_ns, 16 bytes boot_id
    64      64     words, each stored by one aligned 8-byte store:
                   u64 heartbeat_ns, u64 state, u64 epoch_changes, u64 gc_requests,
                   u64 active_leases, 3 reserved
    128     ...    stream records, then lease records

A record is a version word, 8 reserved bytes, and two copies of its fields. The writer
fills the copy that the version does not select, then increments the version in one store;
the version's lowest bit selects the current copy. A writer killed at any point therefore
leaves the old record or the new one, never a mix, and a reader never waits: it retries
only if the version moved while it copied.

A new driver writes a new file, with what must survive the old one, and renames it into
place. The writer holds `flock` on its file for life; with the heartbeat (CLOCK_MONOTONIC)
that is how a reader tells a live writer from a dead one. The pid and its start time only
explain.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.errors import HostError
from tensorpool.shm.seqlock import load_acquire, store_release

MAGIC = int.from_bytes(b"TPREGIS1", "little")
VERSION = 2
HEARTBEAT_STALE_NS = 2 * NS_PER_S
"""A writer beats every few milliseconds; this long without a beat is not alive."""

_HEADER = struct.Struct("<QIIIIQQ16s")
_HEADER_BYTES = 64
_WORDS_OFFSET = 64
_RECORDS_OFFSET = 128
_VERSION_BYTES = 16

_STREAM = struct.Struct("<IIQQIIIIQQQQ32s32s")
_LEASE = struct.Struct("<QIIBBhIiIQQQQq")
_READ_RETRIES = 1000


class RegistryError(HostError):
    """The registry cannot be read or written: missing, damaged, of another version, full."""


class DriverState(enum.IntEnum):
    """What the driver last said of itself."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2
    STOPPED = 3


class LeaseState(enum.IntEnum):
    """State of a lease record."""

    FREE = 0
    ACTIVE = 1
    ORPHANED = 2
    """Its client's Aeron session is gone; a keepalive adopts it again (design §4.12)."""
    RELEASED = 3
    """Ended; its node id is cooling down until `expiry_ns`."""


class BumpReason(enum.IntEnum):
    """Why a stream has its current epoch (Driver §6)."""

    NONE = 0
    CREATED = 1
    PRODUCER_ATTACHED = 2
    PRODUCER_DETACHED = 3
    PRODUCER_EXPIRED = 4
    PRODUCER_REVOKED = 5
    REGIONS_LOST = 6


class _Word(enum.IntEnum):
    HEARTBEAT_NS = 8
    STATE = 9
    EPOCH_CHANGES = 10
    GC_REQUESTS = 11
    ACTIVE_LEASES = 12
    LAST_EPOCH = 13


class StreamRecord(NamedTuple):
    """One stream. `epoch` 0: it has no regions now. `last_epoch` never decreases.

    Of a stream that nothing is known of it is the highest epoch of all: the next one is above it.
    """

    stream_id: int
    header_nslots: int
    epoch: int
    last_epoch: int
    producer_client_id: int
    consumers: int
    layout_version: int
    reason: int
    producer_lease_id: int
    epoch_bytes: int
    epoch_created_ns: int
    epoch_bumps: int
    name: str
    profile: str


class LeaseRecord(NamedTuple):
    """One lease. Times are CLOCK_MONOTONIC nanoseconds; `session_id` is the client's in Aeron.

    `correlation_id` is that of the attach request: a successor that reads the request again
    knows that it has been answered.
    """

    lease_id: int
    stream_id: int
    client_id: int
    role: int
    state: int
    pad: int
    node_id: int
    session_id: int
    pad2: int
    epoch: int
    attached_ns: int
    keepalive_ns: int
    expiry_ns: int
    correlation_id: int = 0


class WriterIdentity(NamedTuple):
    """Who wrote a registry: only to explain, never to decide."""

    pid: int
    start_ticks: int
    boot_id: bytes


def registry_bytes(max_streams: int, max_leases: int) -> int:
    """File size of a registry of these capacities."""
    return _lease_offset(max_streams, max_leases)


def _stream_offset(index: int) -> int:
    return _RECORDS_OFFSET + index * _record_bytes(_STREAM)


def _lease_offset(max_streams: int, index: int) -> int:
    return _stream_offset(max_streams) + index * _record_bytes(_LEASE)


def _record_bytes(fields: struct.Struct) -> int:
    return _VERSION_BYTES + 2 * _copy_bytes(fields)


def _copy_bytes(fields: struct.Struct) -> int:
    return (fields.size + 7) // 8 * 8


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


class RegistryWriter:
    """The one writer. Created under a temporary name; `publish` gives it its own.

    Args:
        path: the registry's path; its directory must exist.
        mode: file mode, whatever the umask.

    Raises:
        OSError: the file cannot be made (no space, no permission).
    """

    def __init__(self, path: str, *, max_streams: int, max_leases: int, mode: int) -> None:
        self.max_streams = max_streams
        self.max_leases = max_leases
        self._path = path
        self._staging = f"{path}.new"
        size = registry_bytes(max_streams, max_leases)
        if os.path.lexists(self._staging):
            os.unlink(self._staging)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._staging, flags, 0o600)
        try:
            os.fchmod(self._fd, mode)
            os.posix_fallocate(self._fd, 0, size)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._map = mmap.mmap(self._fd, size)
        except BaseException:
            os.close(self._fd)
            os.unlink(self._staging)
            raise
        self._words = memoryview(self._map).cast("Q")
        identity = own_identity()
        _HEADER.pack_into(
            self._map,
            0,
            MAGIC,
            VERSION,
            max_streams,
            max_leases,
            identity.pid,
            identity.start_ticks,
            monotonic_ns(),
            identity.boot_id,
        )
        self.heartbeat()

    def publish(self) -> None:
        """Replace the former registry in one step."""
        os.rename(self._staging, self._path)

    def heartbeat(self) -> None:
        """The driver's duty cycle turns."""
        store_release(self._words, _Word.HEARTBEAT_NS, monotonic_ns())

    def set_state(self, state: DriverState) -> None:
        """Tell readers what the driver is doing."""
        store_release(self._words, _Word.STATE, state)

    def set_active_leases(self, count: int) -> None:
        """How many leases are active."""
        store_release(self._words, _Word.ACTIVE_LEASES, count)

    def set_last_epoch(self, epoch: int) -> None:
        """The highest epoch ever begun here, of whichever stream; before that one is begun."""
        store_release(self._words, _Word.LAST_EPOCH, epoch)

    def count_epoch_change(self) -> None:
        """Wake the epoch GC: some stream has a new epoch."""
        word: int = self._words[_Word.EPOCH_CHANGES]
        store_release(self._words, _Word.EPOCH_CHANGES, word + 1)

    def request_gc(self) -> int:
        """Ask the epoch GC for a pass now; returns the request's number."""
        # Above every number of a former driver too: an old report is no answer to this one.
        number = max(self._words[_Word.GC_REQUESTS] + 1, monotonic_ns())
        store_release(self._words, _Word.GC_REQUESTS, number)
        return number

    def write_stream(self, index: int, record: StreamRecord) -> None:
        """Replace stream record `index`."""
        fields = (*record[:-2], record.name.encode()[:32], record.profile.encode()[:32])
        self._write(_stream_offset(index), _STREAM, fields)

    def write_lease(self, index: int, record: LeaseRecord) -> None:
        """Replace lease record `index`."""
        self._write(_lease_offset(self.max_streams, index), _LEASE, record)

    def close(self) -> None:
        """Let go of the file, which stays: it carries the epochs to the next driver."""
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _write(self, offset: int, fields: struct.Struct, values: tuple[object, ...]) -> None:
        version: int = self._words[offset // 8]
        spare = version + 1 & 1
        fields.pack_into(self._map, offset + _VERSION_BYTES + spare * _copy_bytes(fields), *values)
        store_release(self._words, offset // 8, version + 1)


class RegistryReader:
    """A reader of the registry file that was there when it was opened.

    Raises:
        RegistryError: there is none, or it is damaged, foreign or of another version.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise RegistryError(
                f"no registry at {path}: no driver has served this namespace; start one with "
                "`tensorpool up`"
            ) from None
        except OSError as error:
            raise RegistryError(f"registry {path}: {error.strerror}") from error
        try:
            self._open(path)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, path: str) -> None:
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode):
            raise RegistryError(f"registry {path} is no regular file; remove it")
        if info.st_size < _RECORDS_OFFSET:
            raise RegistryError(f"registry {path} is damaged: {info.st_size} bytes, no header fits")
        self._path = path
        self._inode = (info.st_dev, info.st_ino)
        self._map = mmap.mmap(self._fd, info.st_size, prot=mmap.PROT_READ)
        (
            magic,
            version,
            self.max_streams,
            self.max_leases,
            pid,
            start_ticks,
            self.created_ns,
            boot_id,
        ) = _HEADER.unpack_from(self._map, 0)
        problem = None
        if magic != MAGIC:
            problem = "is damaged or no registry: wrong magic"
        elif version != VERSION:
            problem = f"has layout version {version}, this release reads {VERSION}"
        elif info.st_size != registry_bytes(self.max_streams, self.max_leases):
            problem = f"is damaged: {info.st_size} bytes do not fit its capacities"
        if problem is not None:
            self._map.close()
            raise RegistryError(f"registry {path} {problem}; a new driver replaces it")
        self.writer = WriterIdentity(pid, start_ticks, boot_id)
        self._words = memoryview(self._map).cast("Q")

    @property
    def heartbeat_ns(self) -> int:
        """When the driver's duty cycle last turned (CLOCK_MONOTONIC)."""
        return load_acquire(self._words, _Word.HEARTBEAT_NS)

    @property
    def state(self) -> DriverState:
        """What the driver last said of itself; a dead one cannot have said that it died.

        Raises:
            RegistryError: it says something that no driver of this release says.
        """
        value = load_acquire(self._words, _Word.STATE)
        try:
            return DriverState(value)
        except ValueError:
            raise RegistryError(
                f"registry {self._path} is damaged: driver state {value} is unknown; a new driver "
                "replaces it"
            ) from None

    @property
    def last_epoch(self) -> int:
        """The highest epoch ever begun here, of streams too that no record is left of."""
        return load_acquire(self._words, _Word.LAST_EPOCH)

    @property
    def epoch_changes(self) -> int:
        """Grows with every new epoch of any stream."""
        return load_acquire(self._words, _Word.EPOCH_CHANGES)

    @property
    def gc_requests(self) -> int:
        """Number of the last GC pass that the driver asked for."""
        return load_acquire(self._words, _Word.GC_REQUESTS)

    @property
    def active_leases(self) -> int:
        """How many leases are active."""
        return load_acquire(self._words, _Word.ACTIVE_LEASES)

    @property
    def is_replaced(self) -> bool:
        """Whether a new driver has put another file in this one's place."""
        try:
            info = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return True
        return (info.st_dev, info.st_ino) != self._inode

    def is_writer_there(self) -> bool:
        """Whether the process of the driver that wrote this file exists, even if it is stopped.

        Told by its lock alone, so that it holds in every pid namespace.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return False

    def is_writer_alive(self) -> bool:
        """Whether the driver that wrote this file lives: it holds its lock, and its heart beats."""
        return self.is_writer_there() and monotonic_ns() - self.heartbeat_ns < HEARTBEAT_STALE_NS

    def is_of_this_boot(self) -> bool:
        """Whether its monotonic times mean anything now."""
        return self.writer.boot_id == own_identity().boot_id

    def streams(self) -> Iterator[StreamRecord]:
        """Every stream in use."""
        for index in range(self.max_streams):
            raw = self._read(_stream_offset(index), _STREAM)
            if raw is not None and raw[0]:
                yield StreamRecord._make((*raw[:-2], _text(raw[-2]), _text(raw[-1])))

    def leases(self) -> Iterator[LeaseRecord]:
        """Every lease record in use, the released ones included."""
        for index in range(self.max_leases):
            raw = self._read(_lease_offset(self.max_streams, index), _LEASE)
            if raw is not None and raw[4] != LeaseState.FREE:
                yield LeaseRecord._make(raw)

    def close(self) -> None:
        """Unmap and close."""
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, offset: int, fields: struct.Struct) -> tuple[Any, ...] | None:
        for _ in range(_READ_RETRIES):
            version = load_acquire(self._words, offset // 8)
            if version == 0:
                return None
            copy = offset + _VERSION_BYTES + (version & 1) * _copy_bytes(fields)
            values = fields.unpack_from(self._map, copy)
            if load_acquire(self._words, offset // 8) == version:
                return values
        raise RegistryError(
            f"registry {self._path}: a record changed {_READ_RETRIES} times in a row"
        )


def own_identity() -> WriterIdentity:
    """This process, as a registry names it."""
    start_ticks = process_start_ticks(os.getpid())
    assert start_ticks is not None, "this process runs"
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = bytes.fromhex(file.read().decode("ascii").strip().replace("-", ""))
    except OSError:
        boot_id = bytes(16)
    return WriterIdentity(os.getpid(), start_ticks, boot_id)


def process_start_ticks(pid: int) -> int | None:
    """When the process `pid` of our namespace started (clock ticks since boot); None: none runs."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None
