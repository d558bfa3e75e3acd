"""Deleting one epoch's directory, in steps of which each leaves something to go on from.

An epoch is renamed first: from then on it is visibly half deleted, no client can find it
by its name, and the next pass finishes it wherever this one ended. All names are relative
to descriptors; nothing but region files of ours is unlinked.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from tensorpool.gc.directories import NotOursError, open_own, region_files
from tensorpool.gc.eligibility import Found, Kind
from tensorpool.shm.paths import DOOMED_PREFIX


def delete(entry: Found, stream_fd: int) -> int | None:
    """Delete an epoch, or what is left of one, from its stream's directory.

    Returns:
        Bytes of the files unlinked (the memory itself returns when nobody maps them any
        longer); None if another pass was quicker.

    Raises:
        NotOursError: there is something foreign in it; found before the first step, it
            leaves the epoch untouched.
        OSError: a step failed; the next pass goes on from there.
    """
    try:
        fd = open_own(entry.name, stream_fd)
    except FileNotFoundError:
        return None
    try:
        region_files(fd)  # refuse before anything is touched
        name = entry.name
        if entry.kind is Kind.EPOCH:
            name = f"{DOOMED_PREFIX}{entry.epoch}"
            try:
                os.rename(entry.name, name, src_dir_fd=stream_fd, dst_dir_fd=stream_fd)
            except FileNotFoundError:
                return None
            _require_same(fd, name, stream_fd)
        freed = _unlink_regions(fd)
    finally:
        os.close(fd)
    _remove_directory(name, stream_fd)
    return freed


def remove_stream_directory(name: str, namespace_fd: int) -> bool:
    """Remove a stream's directory if it is empty; whether it did."""
    try:
        os.close(open_own(name, namespace_fd))
        os.rmdir(name, dir_fd=namespace_fd)
    except (NotOursError, OSError):
        return False
    return True


def _unlink_regions(epoch_fd: int) -> int:
    freed = 0
    for file in region_files(epoch_fd):
        with suppress(FileNotFoundError):
            os.unlink(file.name, dir_fd=epoch_fd)
            freed += file.size_bytes
    return freed


def _remove_directory(name: str, stream_fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=stream_fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise NotOursError(f"{name} got a foreign entry while it was deleted") from error


def _require_same(fd: int, name: str, stream_fd: int) -> None:
    """The directory checked is the one renamed."""
    try:
        renamed = os.stat(name, dir_fd=stream_fd, follow_symlinks=False)
    except FileNotFoundError:
        return  # another pass finished it
    opened = os.fstat(fd)
    if (renamed.st_dev, renamed.st_ino) != (opened.st_dev, opened.st_ino):
        raise NotOursError(f"{name} was swapped while it was deleted")
