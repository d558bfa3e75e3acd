"""A host broken in one way yields exactly that finding: directories and media drivers."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.doctor.broken_host import (
    STRANGER,
    assert_found,
    doctor,
    examined,
    without,
)
from tests.integration.host import RunningHost

_MEDIA_DRIVER = (
    "import pyaeron, sys\n"
    "driver = pyaeron.MediaDriver(dir=sys.argv[1])\n"
    "print('up', flush=True)\n"
    "sys.stdin.read()\n"
    "driver.close()\n"
)


@contextmanager
def media_driver(
    host: RunningHost, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A media driver that is not the host's."""
    with subprocess.Popen(
        [sys.executable, "-c", _MEDIA_DRIVER, str(host.aeron_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**host.environment, **(environment or {})},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            process.kill()


def user_dir(host: RunningHost) -> Path:
    return host.namespace_dir.parent


def test_a_parent_that_everybody_may_change(tmp_shm: Path) -> None:
    tmp_shm.chmod(0o777)
    assert_found(doctor(examined(tmp_shm)), "shm-mode")


def test_a_base_without_a_parent(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"shm": {"base_dir": str(tmp_shm / "missing" / "base")}})
    assert_found(doctor(host), "base-parent")


def test_a_base_without_its_sticky_bit(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    (tmp_shm / "base").mkdir()
    (tmp_shm / "base").chmod(0o777)
    assert "chmod +t" in assert_found(doctor(host), "base-sticky")["remedy"]


def test_a_base_that_is_not_ours_to_write(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    (tmp_shm / "base").mkdir(mode=0o555)
    assert_found(doctor(host, *without("dac_override")), "directory-denied")


@pytest.mark.parametrize("kind", ["symlink", "file"])
@pytest.mark.parametrize("below", [False, True])
def test_no_plain_directory(tmp_shm: Path, kind: str, below: bool) -> None:
    host = examined(tmp_shm)
    path = user_dir(host) if below else tmp_shm / "base"
    path.parent.mkdir(exist_ok=True)
    if kind == "symlink":
        (tmp_shm / "elsewhere").mkdir()
        path.symlink_to(tmp_shm / "elsewhere")
    else:
        path.touch()
    assert str(path) in assert_found(doctor(host), "directory-type")["seen"]


def test_a_directory_of_somebody_else(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    user_dir(host).mkdir(parents=True)
    os.chown(user_dir(host), STRANGER, STRANGER)
    assert str(STRANGER) in assert_found(doctor(host), "directory-owner")["seen"]


def test_a_directory_that_others_may_write(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    host.namespace_dir.mkdir(parents=True)
    host.namespace_dir.chmod(0o770)
    assert "0770" in assert_found(doctor(host), "directory-mode")["seen"]


def test_a_damaged_registry(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    host.namespace_dir.mkdir(parents=True)
    Path(host.settings.shm.registry_path).write_bytes(b"x" * 4096)
    assert_found(doctor(host), "registry-unreadable")


def test_a_stale_aeron_directory(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    with media_driver(host) as process:
        process.kill()
        process.wait()
        found = assert_found(doctor(host), "aeron-stale")
        assert f"pid {process.pid}" in found["seen"]


def test_no_external_media_driver(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"media_driver": {"embedded": False}})
    assert_found(doctor(host), "media-driver-missing")


def test_an_external_media_driver_that_tethers(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"media_driver": {"embedded": False}})
    with media_driver(host):
        assert_found(doctor(host), "media-driver-tether")


def test_an_external_media_driver_with_a_long_window(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    with media_driver(host, {"AERON_TETHER_SUBSCRIPTIONS": "false"}):
        assert "5s" in assert_found(doctor(host), "media-driver-window")["seen"]


def test_an_external_media_driver_that_is_well_set(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    # The variables that the remedy names are a setting that Aeron takes.
    well = dict(host.settings.media_driver.environment)
    with media_driver(host, well):
        assert doctor(host).status == 0


def test_a_media_driver_of_another_pid_namespace(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    with media_driver(host):
        prefix = ("unshare", "--pid", "--fork", "--mount-proc")
        assert_found(doctor(host, *prefix), "media-driver-hidden")


def test_an_aeron_directory_of_somebody_else(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    host.aeron_dir.mkdir()
    os.chown(host.aeron_dir, STRANGER, STRANGER)
    assert_found(doctor(host), "aeron-owner")


def test_an_aeron_directory_that_everybody_may_write(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    host.aeron_dir.mkdir()
    host.aeron_dir.chmod(0o777)
    assert_found(doctor(host), "aeron-mode")


def test_an_aeron_directory_that_is_a_symlink(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    (tmp_shm / "elsewhere").mkdir()
    host.aeron_dir.symlink_to(tmp_shm / "elsewhere")
    assert_found(doctor(host), "aeron-type")


def test_an_aeron_directory_without_a_parent(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"driver": {"aeron_dir": str(tmp_shm / "missing" / "aeron")}})
    assert_found(doctor(host), "aeron-parent")
