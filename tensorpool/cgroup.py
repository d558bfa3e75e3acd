"""The memory limits that the kernel holds this process to: its cgroup's and its ancestors'.

Of a container only its own cgroup may be in sight. Pages of files in shared memory count,
in the cgroup of whoever touched them first, for as long as the files exist.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MOUNT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"
_UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" by a number close to 2^63."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """One limit.

    Attributes:
        path: the file that sets it.
        used_bytes: charged now, less the file cache that the kernel takes back by itself.
    """

    path: str
    limit_bytes: int
    used_bytes: int

    @property
    def headroom_bytes(self) -> int:
        """What may still be charged; negative only for a moment."""
        return self.limit_bytes - self.used_bytes


class _Hierarchy(NamedTuple):
    """Where a version of cgroups keeps what."""

    directory: str
    limit: str
    usage: str
    cache: tuple[str, ...]


_VERSION_2 = _Hierarchy("", "memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = _Hierarchy(
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def memory_limits(mount: str = MOUNT, own: str = _OWN) -> list[MemoryLimit]:
    """Every limit in force; empty where there is none, or none to be seen."""
    found = []
    for hierarchy, path in _memberships(own):
        for directory in _upwards(os.path.join(mount, hierarchy.directory), path):
            with contextlib.suppress(OSError, ValueError):
                limit = _limit(directory, hierarchy)
                if limit is not None:
                    found.append(limit)
    return found


def _memberships(own: str) -> Iterator[tuple[_Hierarchy, str]]:
    try:
        with open(own, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield _VERSION_2, path
        elif "memory" in controllers.split(","):
            yield _VERSION_1, path


def _upwards(root: str, path: str) -> Iterator[str]:
    """The cgroup's directory and those above it, up to the root of what is mounted."""
    root = os.path.normpath(root)
    directory = os.path.normpath(root + path)
    if not directory.startswith(f"{root}/") or not os.path.isdir(directory):
        # Its own is the root itself; or only its own is mounted, under the host's name for it;
        # or it is outside of what its cgroup namespace shows.
        directory = root
    yield directory
    while directory != root:
        directory = os.path.dirname(directory)
        yield directory


def _limit(directory: str, hierarchy: _Hierarchy) -> MemoryLimit | None:
    path = os.path.join(directory, hierarchy.limit)
    text = _read(path)
    if text == "max" or int(text) >= _UNLIMITED_BYTES:
        return None
    statistics = dict(
        line.split() for line in _read(os.path.join(directory, "memory.stat")).splitlines()
    )
    cache = sum(int(statistics.get(name, 0)) for name in hierarchy.cache)
    used = int(_read(os.path.join(directory, hierarchy.usage)))
    return MemoryLimit(path, int(text), max(used - cache, 0))


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
