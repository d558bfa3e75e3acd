"""What lies in the namespace directory, read by handle; nothing is judged or changed here."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from time import time_ns

from tensorpool.gc.directories import NotOursError, open_own, region_files
from tensorpool.gc.eligibility import Found, Kind, Stamp
from tensorpool.gc.processes import is_stamper_alive
from tensorpool.shm.errors import RegionError
from tensorpool.shm.layout import SUPERBLOCK_BYTES
from tensorpool.shm.paths import (
    DOOMED_PREFIX,
    HEADER_RING_NAME,
    STAGING_PREFIX,
    parse_decimal_name,
)
from tensorpool.shm.superblock import decode_superblock

_MAX_STREAM_ID = 0xFFFF_FFFF
_MAX_EPOCH = 0xFFFF_FFFF_FFFF_FFFF
_STAGING_NAME = re.compile(
    rf"{re.escape(STAGING_PREFIX)}(?P<epoch>\d+)-(?P<pid>\d+)-(?P<start>\d+)", re.ASCII
)
_FOREIGN_NAME = "no name that the driver gives"


def scan(namespace_fd: int, on_step: Callable[[], None]) -> dict[int | None, list[Found]]:
    """The entries of every stream's directory, by stream id, epochs in ascending order.

    Under None stands what belongs to no stream: directories and symlinks with foreign
    names, and whatever has a stream's name and is no directory of ours. Plain files
    beside the streams (registry, reports) are not ours to list.

    `on_step` is called after each stream.

    Raises:
        OSError: the namespace directory cannot be read.
    """
    streams: dict[int | None, list[Found]] = {}
    for name in sorted(os.listdir(namespace_fd)):
        stream_id = _decimal(name, _MAX_STREAM_ID)
        if stream_id is None:
            if not _is_plain_file(name, namespace_fd):
                streams.setdefault(None, []).append(_foreign(None, name, _FOREIGN_NAME))
            continue
        try:
            stream_fd = open_own(name, namespace_fd)
        except FileNotFoundError:
            continue
        except (NotOursError, OSError) as error:
            streams.setdefault(None, []).append(_foreign(None, name, str(error)))
            continue
        try:
            entries = [_look(entry, stream_id, stream_fd) for entry in os.listdir(stream_fd)]
        finally:
            os.close(stream_fd)
        streams[stream_id] = sorted(
            (entry for entry in entries if entry is not None),
            key=lambda entry: (entry.epoch, entry.name),
        )
        on_step()
    return streams


def _look(name: str, stream_id: int, stream_fd: int) -> Found | None:
    """The entry `name`; None if it vanished meanwhile."""
    kind, epoch, maker = _parse(name)
    if kind is Kind.FOREIGN:
        return _foreign(stream_id, name, _FOREIGN_NAME)
    try:
        fd = open_own(name, stream_fd)
    except FileNotFoundError:
        return None
    except (NotOursError, OSError) as error:
        return Found(stream_id, name, kind, epoch, maker, foreign=str(error))
    try:
        stamp, made_ns = (None, 0)
        if kind is Kind.EPOCH:
            stamp, made_ns = _read_stamp(fd)
        size, foreign = 0, ""
        try:
            size = sum(file.size_bytes for file in region_files(fd))
        except (NotOursError, OSError) as error:
            foreign = str(error)
        made_ns = made_ns or os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)
    age_ns = max(0, time_ns() - made_ns)
    return Found(stream_id, name, kind, epoch, maker, stamp, age_ns, size, foreign)


def _parse(name: str) -> tuple[Kind, int, tuple[int, int]]:
    epoch = _decimal(name, _MAX_EPOCH)
    if epoch is not None:
        return Kind.EPOCH, epoch, (0, 0)
    if name.startswith(DOOMED_PREFIX):
        epoch = _decimal(name.removeprefix(DOOMED_PREFIX), _MAX_EPOCH)
        if epoch is not None:
            return Kind.DOOMED, epoch, (0, 0)
    staging = _STAGING_NAME.fullmatch(name)
    if staging is not None:
        maker = (int(staging["pid"]), int(staging["start"]))
        return Kind.STAGING, int(staging["epoch"]), maker
    return Kind.FOREIGN, 0, (0, 0)


def _read_stamp(epoch_fd: int) -> tuple[Stamp | None, int]:
    """The header ring's stamp, and when its file was made (wall clock ns, 0 if unknown)."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(HEADER_RING_NAME, flags, dir_fd=epoch_fd)
    except OSError:
        return None, 0
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return None, 0
        superblock = decode_superblock(os.pread(fd, SUPERBLOCK_BYTES, 0))
    except (OSError, RegionError):
        return None, info.st_mtime_ns
    finally:
        os.close(fd)
    is_alive = is_stamper_alive(superblock.pid, superblock.start_timestamp_ns)
    return Stamp(superblock.pid, superblock.activity_timestamp_ns, is_alive), info.st_mtime_ns


def _decimal(name: str, limit: int) -> int | None:
    value = parse_decimal_name(name) if len(name) <= len(str(limit)) else None
    return value if value is not None and value <= limit else None


def _is_plain_file(name: str, parent_fd: int) -> bool:
    try:
        info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(info.st_mode)


def _foreign(stream_id: int | None, name: str, why: str) -> Found:
    return Found(stream_id, name, Kind.FOREIGN, foreign=why)
