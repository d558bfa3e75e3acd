"""The canonical directory layout, and opening a region's file without being led astray.

    <base_dir>/tensorpool-<user>/<namespace>/<stream_id>/<epoch>/{header.ring, <pool_id>.pool}

(Wire §15.21a.3). Only the driver composes these names; clients get whole paths in URIs
and check them here against their allowed base directories (Wire §15.21a.5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from tensorpool.shm.errors import ContainmentError

HEADER_RING_NAME = "header.ring"
POOL_SUFFIX = ".pool"
STAGING_PREFIX = ".staging-"
"""An epoch directory is made under this name and renamed when it is whole."""
DOOMED_PREFIX = ".doomed-"
"""An epoch directory is renamed to this name before its files are unlinked."""


def pool_file_name(pool_id: int) -> str:
    """File name of a payload pool."""
    return f"{pool_id}{POOL_SUFFIX}"


def stream_dir(namespace_dir: str, stream_id: int) -> str:
    """Directory of a stream's epochs."""
    return os.path.join(namespace_dir, str(stream_id))


def epoch_dir(namespace_dir: str, stream_id: int, epoch: int) -> str:
    """Directory of one epoch's regions."""
    return os.path.join(namespace_dir, str(stream_id), str(epoch))


def parse_decimal_name(name: str) -> int | None:
    """The stream id or epoch that a directory is named after, or None for a foreign name."""
    if not name.isascii() or not name.isdigit() or (len(name) > 1 and name[0] == "0"):
        return None
    return int(name)


def canonical_bases(base_dirs: Iterable[str]) -> tuple[str, ...]:
    """`base_dirs` resolved once, as Wire §15.21a.5 (3) wants."""
    return tuple(os.path.realpath(base) for base in base_dirs)


def is_contained(canonical_path: str, bases: Iterable[str]) -> bool:
    """Whether a canonical path lies below one of the canonical `bases`."""
    return any(canonical_path.startswith(base.rstrip("/") + "/") for base in bases)


def open_contained(path: str, bases: tuple[str, ...], *, writable: bool) -> int:
    """A descriptor of the plain file at `path`, proven to lie below one of `bases`.

    The check is repeated on the opened descriptor, so that a path swapped between check
    and open is refused (Wire §15.21a.5 (6)).

    Raises:
        ContainmentError: the path is relative, missing, leads elsewhere, is no regular
            file, or may not be opened.
    """
    if not os.path.isabs(path) or "\0" in path:
        raise ContainmentError(f"region path {path!r} is not an absolute path")
    try:
        canonical = os.path.realpath(path)
    except OSError as error:  # a link swapped for a file while it was read
        raise ContainmentError(f"region path {path!r}: {error.strerror}") from error
    _require_contained(path, canonical, bases)
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        before = os.lstat(canonical)
        # Before the open too: opening a device or a FIFO already has effects.
        _require_regular(path, before)
        # O_NONBLOCK: a FIFO swapped in here must not hang the open.
        fd = os.open(canonical, flags | os.O_NONBLOCK)
    except OSError as error:
        raise ContainmentError(f"region file {path!r}: {error.strerror}") from error
    try:
        after = os.fstat(fd)
        _require_regular(path, after)
        if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
            raise ContainmentError(f"region path {path!r} was swapped while it was opened")
        _require_contained(path, os.readlink(f"/proc/self/fd/{fd}"), bases)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ContainmentError(f"region path {path!r} is no regular file")


def _require_contained(path: str, canonical: str, bases: tuple[str, ...]) -> None:
    if not is_contained(canonical, bases):
        allowed = ", ".join(bases)
        raise ContainmentError(
            f"region path {path!r} leads to {canonical!r}, outside the allowed base "
            f"directories ({allowed}); add its base to shm.allowed_base_dirs if you trust it"
        )
