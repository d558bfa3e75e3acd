"""The memory limit that a control group sets, version 2 or 1, its ancestors' included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

_NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes a huge number where there is no limit."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The tightest limit on the way up from a process's group."""

    path: str
    bytes: int


def memory_limit(pid: int, proc: str = "/proc") -> MemoryLimit | None:
    """What the process `pid` and its siblings may use together; None: no limit."""
    limits = [limit for path in _groups(pid, proc) if (limit := _read(path)) is not None]
    return min(limits, key=lambda limit: limit.bytes, default=None)


def _groups(pid: int, proc: str) -> Iterator[str]:
    """Directories of the process's memory group and of the groups above it."""
    mounts = list(_mounts(proc))
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for kind, root, point in mounts:
            is_ours = kind == "cgroup2" if not controllers else kind in controllers.split(",")
            if not is_ours or (controllers and kind != "memory"):
                continue
            # In a container the mount shows only the part below its root.
            inner = group.removeprefix(root.rstrip("/")) if group.startswith(root) else ""
            path = os.path.normpath(point + "/" + inner)
            while True:
                yield path
                if len(path) <= len(point):
                    break
                path = os.path.dirname(path)


def _mounts(proc: str) -> Iterator[tuple[str, str, str]]:
    """Kind (cgroup2, or memory for version 1), root and mount point of each hierarchy."""
    with open(f"{proc}/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(maxsplit=2)
            root, point = left.split()[3:5]
            if kind == "cgroup2":
                yield "cgroup2", root, point
            elif kind == "cgroup" and "memory" in options.strip().split(","):
                yield "memory", root, point


def _read(path: str) -> MemoryLimit | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            with open(os.path.join(path, name), encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
            return MemoryLimit(path, int(text))
    return None
