"""What an attacker can put at a path that we are about to make or open, and what it must not cost.

Each plant leads, if it is followed, to a victim: a file or a directory outside of everything
that is ours. `Victim.check` proves that nobody touched it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


class Victim:
    """A directory with a file in it, as they must stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "victim"
        self.directory.mkdir(mode=0o755)
        self.file = self.directory / "precious"
        self.file.write_bytes(b"precious")
        self._before = self._state()

    def _state(self) -> list[tuple[str, int, int, bytes]]:
        entries = [self.directory, *sorted(self.directory.rglob("*"))]
        return [
            (
                str(path),
                path.lstat().st_mode,
                path.lstat().st_uid,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in entries
        ]

    def check(self) -> None:
        """Assert that nothing of it was changed, added or taken away."""
        assert self._state() == self._before


def _symlink_to_file(path: Path, victim: Victim) -> None:
    path.symlink_to(victim.file)


def _symlink_to_directory(path: Path, victim: Victim) -> None:
    path.symlink_to(victim.directory)


def _dangling_symlink(path: Path, victim: Victim) -> None:
    path.symlink_to(victim.directory / "planted")


def _hard_link(path: Path, victim: Victim) -> None:
    os.link(victim.file, path)


def _fifo(path: Path, victim: Victim) -> None:
    os.mkfifo(path)


def _directory(path: Path, victim: Victim) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"inside")


def _device(path: Path, victim: Victim) -> None:
    if os.geteuid() != 0:
        pytest.fail("making a device needs root: run the tests as root or in a container")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


type Plant = Callable[[Path, Victim], None]

FILE_PLANTS: list[Plant] = [
    _symlink_to_file,
    _dangling_symlink,
    _symlink_to_directory,
    _hard_link,
    _fifo,
    _directory,
    _device,
]
"""For a path where a file is to be."""
DIRECTORY_PLANTS: list[Plant] = [
    _symlink_to_directory,
    _dangling_symlink,
    _symlink_to_file,
    _fifo,
    _hard_link,
    _device,
]
"""For a path where a directory is to be."""


def name_of(plant: Plant) -> str:
    """For a test's id."""
    return plant.__name__.strip("_")


def clear(path: Path) -> None:
    """Whatever is at the path, away with it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """With another user's effective identity, as far as files are concerned."""
    if os.geteuid() != 0:
        pytest.fail("becoming another user needs root: run the tests as root or in a container")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
