"""Opening what the driver made, by handle, and refusing everything else (design §4.10).

Every directory is opened relative to its parent's descriptor, never through a symlink,
and must be ours: our user's, writable by nobody else, and below the namespace directory
on its file system.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from tensorpool.errors import HostError
from tensorpool.settings import ShmSettings
from tensorpool.shm.paths import HEADER_RING_NAME, POOL_SUFFIX, parse_decimal_name

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_STAT_BLOCK_BYTES = 512
_MAX_POOL_ID = 0xFFFF


class NotOursError(HostError):
    """A name leads to something that the driver did not make; it is left alone."""


@dataclass(frozen=True, slots=True)
class RegionFile:
    """A region's file; `size_bytes` is what it takes of the file system."""

    name: str
    size_bytes: int


def open_namespace(shm: ShmSettings) -> int:
    """A descriptor of the namespace directory.

    Raises:
        FileNotFoundError: there is none.
        NotOursError: a component is a symlink, somebody else's, or writable by others.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(shm.base_dir, _OPEN_DIR)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        raise NotOursError(f"{shm.base_dir} is no plain directory") from error
    try:
        for name in (f"tensorpool-{shm.user}", shm.namespace):
            child = open_own(name, fd, may_be_mount_point=True)
            os.close(fd)
            fd = child
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_own(name: str, parent_fd: int, *, may_be_mount_point: bool = False) -> int:
    """A descriptor of the directory `name` in `parent_fd`.

    Raises:
        FileNotFoundError: there is none.
        NotOursError: it is no directory, or not ours.
        OSError: it cannot be opened.
    """
    try:
        fd = os.open(name, _OPEN_DIR, dir_fd=parent_fd)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            raise
        raise NotOursError(f"{name} is a symlink or no directory") from error
    try:
        _require_ours(name, fd, None if may_be_mount_point else parent_fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def region_files(epoch_fd: int) -> list[RegionFile]:
    """The regions in an epoch's directory, the header ring last.

    In this order an interrupted deletion leaves the superblock that explains the rest.

    Raises:
        NotOursError: there is anything else in it: a foreign name, a symlink, a
            directory, a file of another user.
        OSError: it cannot be read.
    """
    files = []
    for name in sorted(os.listdir(epoch_fd), key=lambda name: (name == HEADER_RING_NAME, name)):
        if not _is_region_name(name):
            raise NotOursError(f"foreign entry {name!r} in it")
        try:
            info = os.stat(name, dir_fd=epoch_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # another pass deletes beside us
        if not stat.S_ISREG(info.st_mode):
            raise NotOursError(f"{name!r} in it is no regular file")
        if info.st_uid != os.geteuid():
            raise NotOursError(f"{name!r} in it belongs to uid {info.st_uid}")
        files.append(RegionFile(name, info.st_blocks * _STAT_BLOCK_BYTES))
    return files


def _require_ours(name: str, fd: int, parent_fd: int | None) -> None:
    info = os.fstat(fd)
    if info.st_uid != os.geteuid():
        raise NotOursError(f"{name} belongs to uid {info.st_uid}, we are uid {os.geteuid()}")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotOursError(
            f"{name} has mode {stat.S_IMODE(info.st_mode):04o}: others than we may write it"
        )
    if parent_fd is not None and info.st_dev != os.fstat(parent_fd).st_dev:
        raise NotOursError(f"{name} is a mount point of another file system")


def _is_region_name(name: str) -> bool:
    if name == HEADER_RING_NAME:
        return True
    pool_id = parse_decimal_name(name.removesuffix(POOL_SUFFIX))
    return name.endswith(POOL_SUFFIX) and pool_id is not None and pool_id <= _MAX_POOL_ID
