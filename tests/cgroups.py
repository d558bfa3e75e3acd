"""A memory cgroup of a test's own, of whichever version the machine has. Needs root."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import wait_until

MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """One that exists; a process joins by writing its pid to `procs`."""

    directory: Path

    @property
    def procs(self) -> Path:
        return self.directory / "cgroup.procs"

    @property
    def limit_file(self) -> Path:
        return self.directory / ("memory.limit_in_bytes" if self._is_first else "memory.max")

    @property
    def peak_bytes(self) -> int:
        """The most that was ever charged."""
        name = "memory.max_usage_in_bytes" if self._is_first else "memory.peak"
        return int((self.directory / name).read_text())

    @property
    def kills(self) -> int:
        """How many processes the kernel killed for want of memory."""
        name = "memory.oom_control" if self._is_first else "memory.events"
        fields = dict(line.split() for line in (self.directory / name).read_text().splitlines())
        return int(fields["oom_kill"])

    @property
    def _is_first(self) -> bool:
        return (self.directory / "memory.limit_in_bytes").exists()


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[MemoryCgroup]:
    """A cgroup of that limit; every process in it must be gone at the end."""
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    first = [path for _, controllers, path in own if "memory" in controllers.split(",")]
    parent = MOUNT / "memory" / first[0].lstrip("/") if first else MOUNT
    group = MemoryCgroup(parent / f"tensorpool-test-{secrets.token_hex(6)}")
    group.directory.mkdir()
    try:
        assert group.limit_file.exists(), f"{parent} gives its children no memory controller"
        group.limit_file.write_text(str(limit_bytes))
        yield group
    finally:
        # Multiprocessing's resource tracker ends a moment after the launcher.
        wait_until(lambda: not group.procs.read_text(), 10, "its processes to be gone")
        group.directory.rmdir()
