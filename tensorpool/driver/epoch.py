"""An epoch's region files: reserved, written, mapped, then renamed into place.

What makes or deletes files may block and runs on a worker thread, never on the duty cycle
(design §4.5). What was not renamed into place never existed (design §4.15).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, NotRequired, TypedDict, Unpack

from tensorpool.cgroup import memory_limits
from tensorpool.clock import monotonic_ns
from tensorpool.errors import HostError
from tensorpool.fault_points import FaultPoint, fault_point
from tensorpool.namespace import directory_mode, open_own_directory, prepare_namespace
from tensorpool.registry import own_identity
from tensorpool.settings import Profile, ShmSettings
from tensorpool.shm import layout, paths
from tensorpool.shm.backing import backing_of
from tensorpool.shm.region import region_bytes
from tensorpool.shm.superblock import (
    ACTIVITY_WORD,
    RegionLayout,
    encode_superblock,
    header_ring_layout,
    payload_pool_layout,
)
from tensorpool.shm.uri import RegionUri
from tensorpool.wire.control import PayloadPool

_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WORD_BYTES = 8
_ACTIVITY = slice(ACTIVITY_WORD * _WORD_BYTES, (ACTIVITY_WORD + 1) * _WORD_BYTES)
_ZEROS = memoryview(bytes(1 << 20))
_SPARE_BYTES = 8 << 20
_RESERVED_AT_ONCE = 64 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class NoSpace(HostError):
    """The file system cannot hold the epoch."""


class LockRefused(HostError):
    """`mlock_shm` is on and the kernel refuses: fatal (Driver §17)."""


class Abandoned(HostError):
    """Nobody wants the epoch any more."""


class Making(TypedDict):
    """How an epoch's files are made.

    Attributes:
        prefault: have every page zeroed now.
        mlock: have every page stay in memory.
        is_abandoned: asked again and again, for gigabytes take seconds.
    """

    prefault: bool
    mlock: bool
    is_abandoned: NotRequired[Callable[[], bool]]


def _check_wanted(how: Making) -> None:
    if "is_abandoned" in how and how["is_abandoned"]():
        raise Abandoned("the epoch is not wanted any more: the driver ends")


def is_shortage(error: HostError) -> bool:
    """Whether an epoch was not made for want of something that other epochs have."""
    cause = error.__cause__
    is_descriptors = isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}
    return isinstance(error, NoSpace) or is_descriptors


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """What to make."""

    stream_id: int
    epoch: int
    profile: Profile

    def region_layouts(self) -> Iterator[tuple[str, RegionLayout]]:
        """File name and layout of each region, the header ring first."""
        nslots = self.profile.header_nslots
        ring = header_ring_layout(self.stream_id, self.epoch, nslots, layout.HEADER_SLOT_BYTES)
        yield paths.HEADER_RING_NAME, ring
        for pool in self.profile.pools:
            yield (
                paths.pool_file_name(pool.pool_id),
                payload_pool_layout(
                    self.stream_id, self.epoch, nslots, pool.pool_id, pool.stride_bytes
                ),
            )

    @property
    def total_bytes(self) -> int:
        """Bytes of all its region files."""
        return sum(region_bytes(region) for _, region in self.region_layouts())


class _Superblock:
    """A region's first page, mapped.

    Clients that may write a region may also cut its file, and a store of ours to the lost page
    would be a SIGBUS. The kernel stores for us: to a lost page it refuses (EFAULT).
    """

    def __init__(self, mapping: mmap.mmap, file_bytes: int) -> None:
        self._mapping = mapping
        self._file_bytes = file_bytes
        self._activity = memoryview(mapping)[_ACTIVITY]

    def refresh(self) -> None:
        """Store the time that the courier carries."""
        with suppress(OSError):  # lost; `is_whole` tells
            os.preadv(_courier(), [self._activity], 0)

    def is_whole(self) -> bool:
        """Whether the file is still as long as it was made."""
        return self._mapping.size() >= self._file_bytes

    def close(self) -> None:
        """Unmap."""
        self._activity.release()
        self._mapping.close()


@cache
def _courier() -> int:
    """A file in memory from which the kernel copies the time into superblocks."""
    return os.memfd_create("tensorpool-activity", os.MFD_CLOEXEC)


class Staged(NamedTuple):
    """Where an epoch's directory stands before it has its name: nobody looks at it.

    Attributes:
        name: of the directory; it names its maker, so that the GC knows whose it is.
        stream_fd: the stream's directory, open since it was found to be ours.
    """

    name: str
    stream_fd: int


@dataclass(slots=True)
class Epoch:
    """One epoch's regions in place, with its superblocks mapped.

    Attributes:
        header_uri, pools: as the attach response and the announce carry them.
        total_bytes: size of all files together.
        staged: where it stands, until it is put in place.
    """

    stream_id: int
    epoch: int
    directory: str
    header_uri: str
    pools: tuple[PayloadPool, ...]
    total_bytes: int
    superblocks: list[_Superblock]
    staged: Staged | None = None

    @property
    def is_in_place(self) -> bool:
        """Whether its directory has its name."""
        return self.staged is None

    def refresh_activity(self, now_ns: int) -> None:
        """Tell consumers that the regions are tended (Wire §7.1)."""
        os.pwrite(_courier(), now_ns.to_bytes(_WORD_BYTES, "little"), 0)
        for superblock in self.superblocks:
            superblock.refresh()

    def is_whole(self) -> bool:
        """Whether every file is where it was made, and as long."""
        return os.path.exists(self.directory) and all(s.is_whole() for s in self.superblocks)

    def close(self) -> None:
        """Unmap; the files are the GC's to delete."""
        for superblock in self.superblocks:
            superblock.close()
        self.superblocks.clear()
        if self.staged is not None:
            os.close(self.staged.stream_fd)
            self.staged = None


def provision(plan: EpochPlan, shm: ShmSettings, **how: Unpack[Making]) -> Epoch:
    """Make the epoch's directory and files, whole or not at all.

    Args:
        plan: what to make.
        shm: where, and for whom.
        how: see `Making`.

    Raises:
        Abandoned: it was, and nothing is left.
        NoSpace: the file system or the cgroup's memory limit lacks the bytes (the message
            names wanted and free).
        LockRefused: `mlock` is on and refused.
        HostError: a directory or file cannot be made safely.
    """
    epoch = stage(plan, shm, **how)
    try:
        _rename(epoch, shm)
    except HostError:
        discard(epoch)
        raise
    return epoch


def stage(plan: EpochPlan, shm: ShmSettings, **how: Unpack[Making]) -> Epoch:
    """As `provision`, but nobody can see it until `put_in_place`."""
    stream_fd = _open_stream_dir(plan, shm)
    try:
        return _stage(plan, shm, stream_fd, how)
    except BaseException:
        os.close(stream_fd)
        raise


def put_in_place(epoch: Epoch, shm: ShmSettings) -> None:
    """Give what was staged its name. A few calls of the kernel: the duty cycle may do so.

    Raises:
        HostError: its files were removed or cut, or another directory stands in the place of the
            stream's. It is to be discarded.
    """
    _rename(epoch, shm)
    if not epoch.is_whole():
        raise HostError(
            f"stream {epoch.stream_id}: epoch {epoch.epoch}: its files were cut, or are no longer "
            f"in {epoch.directory}; another one is made"
        )
    epoch.refresh_activity(monotonic_ns())


def discard(epoch: Epoch) -> None:
    """Close one that is not wanted, and remove it if it was not put in place; else the GC does."""
    if epoch.staged is not None:
        _remove(epoch.staged.name, epoch.staged.stream_fd)
    epoch.close()


def _stage(plan: EpochPlan, shm: ShmSettings, stream_fd: int, how: Making) -> Epoch:
    _require_memory(plan, shm)
    path = paths.epoch_dir(shm.namespace_dir, plan.stream_id, plan.epoch)
    identity = own_identity()
    staging = f"{paths.STAGING_PREFIX}{plan.epoch}-{identity.pid}-{identity.start_ticks}"
    superblocks: list[_Superblock] = []
    try:
        fault_point(FaultPoint.STREAM_DIRECTORY_MADE)
        staging_fd = open_own_directory(
            path, staging, stream_fd, directory_mode(shm.permissions_mode)
        )
        fault_point(FaultPoint.STAGING_MADE)
        try:
            for name, region in plan.region_layouts():
                superblocks.append(_make_region(name, region, staging_fd, shm, how))
        finally:
            os.close(staging_fd)
    except BaseException as error:
        for superblock in superblocks:
            superblock.close()
        _remove(staging, stream_fd)
        if isinstance(error, OSError):
            raise _explain(error, plan, shm) from error
        raise
    # A client verifies what the URI says (Wire §15.22), so it says what is there.
    is_huge = shm.require_hugepages and backing_of(shm.base_dir).is_hugetlbfs
    uris = {
        name: str(RegionUri(os.path.join(path, name), is_huge)) for name, _ in plan.region_layouts()
    }
    return Epoch(
        plan.stream_id,
        plan.epoch,
        path,
        uris[paths.HEADER_RING_NAME],
        tuple(
            PayloadPool(
                pool.pool_id,
                plan.profile.header_nslots,
                pool.stride_bytes,
                uris[paths.pool_file_name(pool.pool_id)],
            )
            for pool in plan.profile.pools
        ),
        plan.total_bytes,
        superblocks,
        Staged(staging, stream_fd),
    )


def _rename(epoch: Epoch, shm: ShmSettings) -> None:
    assert epoch.staged is not None
    name, stream_fd = epoch.staged
    try:
        os.rename(name, str(epoch.epoch), src_dir_fd=stream_fd, dst_dir_fd=stream_fd)
    except OSError as error:
        raise _explain(error, epoch, shm) from error
    fault_point(FaultPoint.EPOCH_RENAMED)
    os.close(stream_fd)
    epoch.staged = None


def _require_memory(plan: EpochPlan, shm: ShmSettings) -> None:
    """Refuse what the cgroup's limit does not allow: the kernel would kill us in the middle.

    Other processes of the cgroup may take the rest meanwhile; no check can rule that out.
    """
    if shm.require_hugepages:
        return  # A resource of their own; its limit is an error of the call.
    for limit in memory_limits():
        if limit.headroom_bytes < plan.total_bytes + _SPARE_BYTES:
            raise NoSpace(
                f"stream {plan.stream_id}: epoch {plan.epoch} wants {plan.total_bytes} bytes of "
                f"memory, and of the limit of {limit.limit_bytes} bytes ({limit.path}) "
                f"{limit.headroom_bytes} bytes are free, of which {_SPARE_BYTES} are kept for "
                "the processes; raise the limit, or use smaller pools or fewer kept epochs"
            )


def _remove(staging: str, stream_fd: int) -> None:
    """Remove what never became an epoch; what is no directory was not made by us and stays."""
    with suppress(OSError):
        fd = os.open(staging, _OPEN_DIR, dir_fd=stream_fd)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(staging, dir_fd=stream_fd)


def _open_stream_dir(plan: EpochPlan, shm: ShmSettings) -> int:
    # Checked from the base down each time: what was ours at the start may have been swapped.
    parent = prepare_namespace(shm)
    try:
        path = paths.stream_dir(shm.namespace_dir, plan.stream_id)
        mode = directory_mode(shm.permissions_mode)
        return open_own_directory(path, str(plan.stream_id), parent, mode)
    finally:
        os.close(parent)


def _make_region(
    name: str, region: RegionLayout, directory_fd: int, shm: ShmSettings, how: Making
) -> _Superblock:
    fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=directory_fd)
    try:
        fault_point(FaultPoint.FILE_MADE)
        page = backing_of(fd).page_size_bytes
        size = (
            -(-region_bytes(region) // page) * page
            if page > mmap.PAGESIZE
            else region_bytes(region)
        )
        # Reserved now: later a write to a full file system would be a SIGBUS (design §4.4).
        _reserve(fd, size, page, how)
        fault_point(FaultPoint.FILE_RESERVED)
        if (
            how["prefault"] and page == mmap.PAGESIZE
        ):  # huge pages are zeroed when they are reserved
            _zero(fd, size, how)
        whole = mmap.mmap(fd, size if how["mlock"] else min(page, size))
        if how["mlock"]:
            _lock(whole, size)
        superblock = encode_superblock(region, pid=os.getpid(), now_ns=monotonic_ns())
        whole[: layout.SUPERBLOCK_BYTES] = superblock
        # Last: whoever may write the file may cut it, and our own store would be a SIGBUS.
        os.fchmod(fd, shm.permissions_mode)
    finally:
        os.close(fd)
    fault_point(FaultPoint.FILE_STAMPED)
    return _Superblock(whole, size)


def _reserve(fd: int, size: int, page: int, how: Making) -> None:
    step = -(-_RESERVED_AT_ONCE // page) * page
    for offset in range(0, size, step):
        _check_wanted(how)
        os.posix_fallocate(fd, offset, min(step, size - offset))


def _zero(fd: int, size: int, how: Making) -> None:
    """Have every page zeroed now instead of at a client's first touch.

    Written, not touched through a mapping: populating a mapping holds this process's mmap lock,
    and whoever provisions a small region meanwhile would wait for it.
    """
    offset = 0
    while offset < size:
        _check_wanted(how)
        offset += os.pwrite(fd, _ZEROS[: size - offset], offset)


def _lock(mapping: mmap.mmap, size: int) -> None:
    anchor = ctypes.c_char.from_buffer(mapping)
    refused = _libc.mlock(ctypes.byref(anchor), ctypes.c_size_t(size)) != 0
    del anchor
    if refused:
        reason = os.strerror(ctypes.get_errno())
        mapping.close()
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        raise LockRefused(
            f"policies.mlock_shm is true, but locking {size} bytes was refused: {reason}; the "
            f"memlock limit is {soft} bytes (`ulimit -l`): raise it (LimitMEMLOCK=infinity), grant "
            "CAP_IPC_LOCK, or set policies.mlock_shm = false"
        )


def _explain(error: OSError, plan: EpochPlan | Epoch, shm: ShmSettings) -> HostError:
    what = f"stream {plan.stream_id}: epoch {plan.epoch} in {shm.namespace_dir}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}:
        space = os.statvfs(shm.base_dir)
        free = space.f_bavail * space.f_frsize
        return NoSpace(
            f"{what}: {error.strerror}: wants {plan.total_bytes} bytes, {free} bytes and "
            f"{space.f_favail} inodes are free; "
            "enlarge the file system, or use smaller pools or fewer kept epochs"
        )
    return HostError(f"{what}: {error.strerror}; check the directory's owner, mode and mount")
