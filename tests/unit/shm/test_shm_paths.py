"""Path containment (Wire §15.21a.5) with real files of every kind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tensorpool.shm import paths
from tensorpool.shm.errors import ContainmentError

NOBODY = 65534


@pytest.fixture
def allowed(shm_dir: Path) -> Path:
    path = shm_dir / "allowed"
    path.mkdir()
    (path / "plain").write_bytes(b"inside")
    (shm_dir / "outside").write_bytes(b"outside")
    return path


def contents(path: object, *bases: Path, writable: bool = False) -> bytes:
    canonical = paths.canonical_bases(str(base) for base in bases)
    fd = paths.open_contained(str(path), canonical, writable=writable)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _no_leaked_descriptor() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def refused(path: object, *bases: Path, because: str, writable: bool = False) -> None:
    with pytest.raises(ContainmentError, match=because):
        contents(path, *bases, writable=writable)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's power to open everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_plain_file(allowed: Path) -> None:
    assert contents(allowed / "plain", allowed) == b"inside"


def test_writable_descriptor(allowed: Path) -> None:
    fd = paths.open_contained(
        str(allowed / "plain"), paths.canonical_bases([str(allowed)]), writable=True
    )
    try:
        os.pwrite(fd, b"I", 0)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    assert (allowed / "plain").read_bytes() == b"Inside"


@pytest.mark.clause("Wire §15.21a.5-4")
@pytest.mark.config_key("shm.allowed_base_dirs")
def test_any_of_several_bases(shm_dir: Path, allowed: Path) -> None:
    other = shm_dir / "other"
    assert contents(allowed / "plain", other, allowed) == b"inside"
    refused(allowed / "plain", other, because="outside the allowed base")


def test_no_base_allows_nothing(allowed: Path) -> None:
    refused(allowed / "plain", because="outside the allowed base")


@pytest.mark.clause("Wire §15.21a.5-1")
@pytest.mark.parametrize("path", ["", "plain", "./plain", "../allowed/plain", "~/plain"])
def test_relative(allowed: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(allowed)
    refused(path, allowed, because="not an absolute path")


def test_nul_byte(allowed: Path) -> None:
    refused(f"{allowed}/plain\0", allowed, because="not an absolute path")


def test_missing(allowed: Path) -> None:
    refused(allowed / "missing", allowed, because="No such file")
    refused(allowed / "plain" / "below", allowed, because="Not a directory")


@pytest.mark.clause("Wire §15.21a.5-2")
def test_dots_that_stay_inside_and_dots_that_leave(shm_dir: Path, allowed: Path) -> None:
    (allowed / "deep").mkdir()
    assert contents(f"{allowed}/deep/../plain", allowed) == b"inside"
    refused(f"{allowed}/../outside", allowed, because="outside the allowed base")
    refused(f"{allowed}/deep/../../outside", allowed, because=f"leads to '{shm_dir}/outside'")


@pytest.mark.clause("Wire §15.21a.5-4")
def test_symlinks_that_stay_inside_and_symlinks_that_leave(shm_dir: Path, allowed: Path) -> None:
    (allowed / "in").symlink_to(allowed / "plain")
    (allowed / "out").symlink_to(shm_dir / "outside")
    (allowed / "up").symlink_to("..")
    assert contents(allowed / "in", allowed) == b"inside"
    refused(allowed / "out", allowed, because="outside the allowed base")
    refused(allowed / "up" / "outside", allowed, because="outside the allowed base")
    assert contents(allowed / "up" / "allowed" / "plain", allowed) == b"inside"


def test_symlink_loop(allowed: Path) -> None:
    (allowed / "loop").symlink_to(allowed / "loop")
    refused(allowed / "loop", allowed, because="no regular file")


@pytest.mark.clause("Wire §15.21a.5-3")
def test_a_base_may_be_a_symlink(shm_dir: Path, allowed: Path) -> None:
    alias = shm_dir / "alias"
    alias.symlink_to(allowed)
    assert contents(alias / "plain", alias) == b"inside"
    assert contents(allowed / "plain", alias) == b"inside"


def test_a_name_that_begins_like_the_base_is_outside(shm_dir: Path, allowed: Path) -> None:
    (shm_dir / "allowed-not").mkdir()
    (shm_dir / "allowed-not" / "file").touch()
    refused(shm_dir / "allowed-not" / "file", allowed, because="outside the allowed base")


@pytest.mark.clause("Wire §15.21a.5-4")
@pytest.mark.parametrize(
    ("path", "bases", "contained"),
    [
        ("/a/b", ("/a",), True),
        ("/a/b", ("/a/",), True),
        ("/a/b", ("/",), True),
        ("/a", ("/a",), False),
        ("/ab", ("/a",), False),
        ("/b", ("/a", "/c"), False),
        ("/a/b", (), False),
    ],
)
def test_is_contained(path: str, bases: tuple[str, ...], contained: bool) -> None:
    assert paths.is_contained(path, bases) is contained


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.clause("Wire §15.21a.5-5")
@pytest.mark.parametrize("writable", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, bind_socket])
def test_no_regular_file(allowed: Path, make: Callable[[Path], None], writable: bool) -> None:
    make(allowed / "odd")
    refused(allowed / "odd", allowed, because="no regular file", writable=writable)


@pytest.mark.clause("Wire §15.21a.5-5")
@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_device(device: str) -> None:
    refused(device, Path("/dev"), because="no regular file", writable=True)


def test_the_base_itself(allowed: Path) -> None:
    refused(allowed, allowed, because="outside the allowed base")


def test_no_permission(allowed: Path) -> None:
    (allowed / "plain").chmod(0o000)
    with unprivileged():
        refused(allowed / "plain", allowed, because="Permission denied")


def test_no_permission_to_write(allowed: Path) -> None:
    (allowed / "plain").chmod(0o444)
    with unprivileged():
        assert contents(allowed / "plain", allowed) == b"inside"
        refused(allowed / "plain", allowed, because="Permission denied", writable=True)


@pytest.fixture
def just_before_open(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Runs an attacker's step between the check of the path and its (real) open."""

    def arrange(attack: Callable[[], object]) -> None:
        real_open = os.open

        def attacked_open(path: str, flags: int) -> int:
            monkeypatch.undo()
            attack()
            return real_open(path, flags)

        monkeypatch.setattr(os, "open", attacked_open)

    return arrange


type Arrange = Callable[[Callable[[], object]], None]


@pytest.mark.clause("Wire §15.21a.5-6")
def test_swapped_for_another_file(allowed: Path, just_before_open: Arrange) -> None:
    (allowed / "other").write_bytes(b"other")
    just_before_open(lambda: (allowed / "other").replace(allowed / "plain"))
    refused(allowed / "plain", allowed, because="swapped while it was opened")


@pytest.mark.clause("Wire §15.21a.5-6")
def test_swapped_for_a_symlink(shm_dir: Path, allowed: Path, just_before_open: Arrange) -> None:
    (allowed / "link").symlink_to(shm_dir / "outside")
    just_before_open(lambda: (allowed / "link").replace(allowed / "plain"))
    refused(allowed / "plain", allowed, because="symbolic links")


@pytest.mark.clause("Wire §15.21a.5-6")
@pytest.mark.parametrize("writable", [False, True], ids=["reading", "writing"])
def test_swapped_for_a_fifo(allowed: Path, just_before_open: Arrange, writable: bool) -> None:
    os.mkfifo(allowed / "fifo")
    just_before_open(lambda: (allowed / "fifo").replace(allowed / "plain"))
    refused(allowed / "plain", allowed, because="no regular file", writable=writable)


@pytest.mark.clause("Wire §15.21a.5-6")
def test_directory_swapped_for_a_symlink_to_another_name_of_the_file(
    shm_dir: Path, allowed: Path, just_before_open: Arrange
) -> None:
    """The inode is the same, but its path has left the base: only the descriptor tells."""
    inner, moved = allowed / "inner", shm_dir / "moved"
    inner.mkdir()
    (inner / "file").touch()

    def attack() -> None:
        inner.rename(moved)
        inner.symlink_to(moved)

    just_before_open(attack)
    refused(inner / "file", allowed, because=f"leads to '{moved}/file', outside")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("0", 0),
        ("7", 7),
        ("10000", 10000),
        ("18446744073709551615", 2**64 - 1),
        ("", None),
        ("00", None),
        ("007", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        (" 1", None),
        ("1.0", None),
        ("0x10", None),
        ("²", None),
        ("٣", None),
        (".staging-1", None),
    ],
)
def test_decimal_names(name: str, value: int | None) -> None:
    assert paths.parse_decimal_name(name) == value
