"""The file systems of the base directory and of the Aeron directory: kind, size, space."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.doctor.need import need_of
from tensorpool.doctor.texts import size
from tensorpool.settings import HostSettings
from tensorpool.shm.backing import file_system_magic

_MEMORY_FILE_SYSTEMS = {0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x958458F6: "hugetlbfs"}
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class _Volume:
    """What one file system must hold, and for which keys."""

    directory: str
    keys: str
    wanted: int
    held: int


def check_file_systems(settings: HostSettings) -> Iterator[Finding]:
    """Kind, size and free space of each file system that the host writes to."""
    for volume in _volumes(settings):
        yield from _kind(volume)
        yield from _space(volume)


def nearest_directory(path: str) -> str:
    """`path` itself, or the nearest directory above it that exists."""
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    return path


def _volumes(settings: HostSettings) -> list[_Volume]:
    need = need_of(settings)
    base = nearest_directory(settings.shm.base_dir)
    aeron = nearest_directory(settings.aeron_dir)
    base_held, aeron_held = held_bytes(settings.shm.namespace_dir), held_bytes(settings.aeron_dir)
    if os.stat(base).st_dev == os.stat(aeron).st_dev:
        wanted, held = need.region_bytes + need.aeron_bytes, base_held + aeron_held
        return [_Volume(base, "shm.base_dir", wanted, held)]
    return [
        _Volume(base, "shm.base_dir", need.region_bytes, base_held),
        _Volume(aeron, "driver.aeron_dir", need.aeron_bytes, aeron_held),
    ]


def _kind(volume: _Volume) -> Iterator[Finding]:
    magic = file_system_magic(volume.directory)
    if magic not in _MEMORY_FILE_SYSTEMS:
        yield Finding(
            "not-in-memory",
            Severity.WARNING,
            f"{volume.directory} is on a file system of type {magic:#x}",
            f"{volume.keys} lies on tmpfs or hugetlbfs: elsewhere the kernel writes every frame "
            "to a disk",
            f"set {volume.keys} to a directory in /dev/shm, or mount a tmpfs there",
        )


def _space(volume: _Volume) -> Iterator[Finding]:
    info = os.statvfs(volume.directory)
    total, free = info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize
    if not total:  # no limit of its own
        return
    rule = (
        f"{volume.keys}: its file system holds the kept epochs of every static stream, one more "
        "that is being made, and Aeron's term buffers where they share it"
    )
    if volume.wanted > total:
        yield Finding(
            "shm-size",
            Severity.ERROR,
            f"{volume.directory} has {size(total)}; the configuration takes {size(volume.wanted)}",
            rule,
            "enlarge it (`mount -o remount,size=… `; in a container a memory-backed volume with "
            "a sizeLimit), or lower header_nslots, stride_bytes, policies.epoch_gc_keep or the "
            "channels' term-length",
        )
    elif volume.wanted - volume.held > free:
        yield Finding(
            "shm-space",
            Severity.ERROR,
            f"{volume.directory} has {size(free)} free of {size(total)}; the configuration takes "
            f"{size(volume.wanted)}, of which this host holds {size(volume.held)}",
            rule,
            f"free space (`du -sh {volume.directory}/*` tells who holds it; `tensorpool gc` "
            "deletes old epochs), or enlarge the file system",
        )


def held_bytes(directory: str) -> int:
    """Bytes that the files below `directory` take."""
    held = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                held += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK_BYTES
    return held
