"""A host broken in one way yields exactly that finding: system, limits, software."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.doctor.broken_host import (
    STRANGER,
    assert_found,
    command,
    doctor,
    examined,
    mounted,
    tmpfs,
    without,
)
from tests.integration.host import DEADLINE_S, running_host
from tests.support import wait_until

CLOCK_SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
ANY = "0.0.0.0"  # noqa: S104 - nothing listens there
ORDINARY_USER = f"unshare --user --map-user={STRANGER}"
WITH_LOGIND = (
    "mount -t tmpfs none /run",
    "mkdir -p /run/systemd/system",
    "for d in /etc/systemd /usr/lib/systemd; do [ ! -d $d ] || mount -t tmpfs none $d; done",
)


def test_a_fit_host(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    done = doctor(host)
    assert done.status == 0, done
    assert '"findings": []' in done.output
    assert not host.leftovers()
    text = host.command("doctor")
    assert text.status == 0
    assert text.output.startswith("healthy: ")
    assert "\x1b" not in text.output


def test_a_running_host_is_fit(tmp_shm: Path) -> None:
    with running_host(tmp_shm, {"metrics": {"enabled": True}}) as host:
        assert doctor(host).status == 0, doctor(host)


def test_people_read_what_why_and_what_to_do(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    tmp_shm.chmod(0o777)
    done = host.command("doctor")
    assert done.status == 2
    for text in ("error shm-mode", "seen", "rule", "remedy", "chmod +t", "errors: "):
        assert text in done.output


def test_a_broken_configuration_is_refused_as_everywhere(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    host.configure({"policies": {"announce_period_ms": 0}})
    done = host.command("doctor")
    assert done.status == 2
    assert "policies.announce_period_ms" in done.errors


def test_memlock(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"policies": {"mlock_shm": True}})
    limited = (*without("ipc_lock"), "prlimit", "--memlock=4096")
    assert "4.0 KiB" in assert_found(doctor(host, *limited), "memlock-limit")["seen"]
    # The privilege to lock anything, or a limit that is high enough.
    assert doctor(host, "prlimit", "--memlock=4096").status == 0
    assert doctor(host, "prlimit", "--memlock=1048576", *without("ipc_lock")).status == 0


def test_memlock_in_a_user_namespace_where_the_capability_is_none(tmp_shm: Path) -> None:
    host = examined(tmp_shm, {"policies": {"mlock_shm": True}})
    inside = ("unshare", "--user", "--map-root-user", "prlimit", "--memlock=4096")
    assert_found(doctor(host, *inside), "memlock-limit")


def test_descriptors(tmp_shm: Path) -> None:
    assert_found(doctor(examined(tmp_shm), "prlimit", "--nofile=50"), "fd-limit")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group with a memory limit, of whichever version this machine has."""
    version_1 = Path("/sys/fs/cgroup/memory")
    root = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
    group = root / f"tp-test-{os.getpid()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if version_1.is_dir() else "memory.max"
        (group / name).write_text(str(limit_bytes))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), DEADLINE_S, "an empty group")
        group.rmdir()


def test_control_group(tmp_shm: Path) -> None:
    with memory_group(256 << 20) as group:
        inside = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
        found = assert_found(doctor(examined(tmp_shm), *inside), "cgroup-memory")
        assert str(group) in found["seen"]


def test_clock_source(tmp_shm: Path) -> None:
    slow = tmp_shm / "clocksource"
    slow.write_text("hpet\n")
    prefix = mounted(f"mount --bind {slow} {CLOCK_SOURCE}")
    assert "hpet" in assert_found(doctor(examined(tmp_shm), *prefix), "clock-source")["seen"]


def test_remove_ipc(tmp_shm: Path) -> None:
    prefix = mounted(*WITH_LOGIND, then=ORDINARY_USER)
    found = assert_found(doctor(examined(tmp_shm), *prefix), "remove-ipc")
    assert "enable-linger" in found["remedy"]


def test_remove_ipc_turned_off(tmp_shm: Path) -> None:
    off = (
        "mkdir -p /run/systemd/logind.conf.d",
        "printf '[Login]\\nRemoveIPC=no\\n' > /run/systemd/logind.conf.d/tensorpool.conf",
    )
    prefix = mounted(*WITH_LOGIND, *off, then=ORDINARY_USER)
    assert doctor(examined(tmp_shm), *prefix).status == 0


def test_system_users_keep_their_files(tmp_shm: Path) -> None:
    assert doctor(examined(tmp_shm), *mounted(*WITH_LOGIND)).status == 0


def metrics(port: int, address: str = "127.0.0.1") -> Any:
    return {"metrics": {"enabled": True, "bind_address": address, "ports": {"driver": port}}}


def test_a_port_that_is_taken(tmp_shm: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        found = assert_found(doctor(examined(tmp_shm, metrics(port))), "port-taken")
        assert str(port) in found["seen"]
        assert "metrics.ports.driver" in found["remedy"]


def test_a_port_that_is_not_allowed(tmp_shm: Path) -> None:
    prefix = ("unshare", "--net", *without("net_bind_service"))
    assert_found(doctor(examined(tmp_shm, metrics(80, ANY)), *prefix), "port-denied")


def test_an_address_of_somebody_else(tmp_shm: Path) -> None:
    assert_found(doctor(examined(tmp_shm, metrics(9400, "192.0.2.1"))), "port-address")


def test_the_pid_namespace(tmp_shm: Path) -> None:
    host = examined(tmp_shm)
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with (
        host.log.open("ab") as log,
        subprocess.Popen(
            [*inside, *command(host, "up")], stdout=log, stderr=log, env=host.environment
        ) as up,
    ):
        try:
            wait_until(lambda: "ready in" in host.logged(), DEADLINE_S, host.logged)
            assert_found(doctor(host), "pid-namespace")
        finally:
            up.send_signal(signal.SIGKILL)
    wait_until(lambda: doctor(host).status != 2, DEADLINE_S, "the end")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rich-1.0", "Name: rich\nVersion: 1.0\n", "library-version"),
        (
            "tensorpool-9.0",
            "Name: tensorpool\nVersion: 9\nRequires-Python: >=4\n",
            "python-version",
        ),
        (
            "tensorpool-9.0",
            "Name: tensorpool\nVersion: 9\nRequires-Dist: no-such-library>=2; python_version>'3'\n",
            "library-version",
        ),
    ],
)
def test_versions(tmp_shm: Path, name: str, text: str, expected: str) -> None:
    installed = tmp_shm / "packages" / f"{name}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    assert_found(doctor(examined(tmp_shm), path=installed.parent), expected)


def test_a_ring_beyond_the_cache(tmp_shm: Path) -> None:
    wide = {"header_nslots": 65536, "payload_pools": [{"pool_id": 1, "stride_bytes": 1 << 20}]}
    host = examined(tmp_shm)
    host.configure({"profiles": {**host_profiles(), "wide": wide}})
    found = assert_found(doctor(host), "ring-size")
    assert "profiles.wide.header_nslots" in found["remedy"]


def host_profiles() -> Any:
    pool = {"pool_id": 1, "stride_bytes": 4096}
    return {"default": {"header_nslots": 8, "payload_pools": [pool]}}


@pytest.mark.parametrize(
    ("page_size_bytes", "mount", "expected"),
    [
        (2 << 20, None, "hugepages-missing"),
        (2 << 20, "mount -t hugetlbfs -o pagesize=2M none", "hugepages-few"),
        (1 << 30, "mount -t hugetlbfs -o pagesize=2M none", "hugepages-size"),
    ],
)
def test_huge_pages(tmp_shm: Path, page_size_bytes: int, mount: str | None, expected: str) -> None:
    base = tmp_shm / "base"
    base.mkdir()
    profile = {"header_nslots": 262144, "payload_pools": [{"pool_id": 1, "stride_bytes": 64}]}
    host = examined(tmp_shm)
    host.configure(
        {
            "shm": {"require_hugepages": True, "page_size_bytes": page_size_bytes},
            "profiles": {"default": profile},
        }
    )
    prefix = mounted(f"{mount} {base}") if mount else ()
    assert_found(doctor(host, *prefix), expected)


def test_too_small_a_file_system(tmp_shm: Path) -> None:
    (tmp_shm / "base").mkdir()
    prefix = mounted(tmpfs(tmp_shm / "base", "size=64k,mode=755"))
    found = assert_found(doctor(examined(tmp_shm), *prefix), "shm-size")
    assert "64.0 KiB" in found["seen"]


def test_too_small_a_file_system_for_aeron(tmp_shm: Path) -> None:
    (tmp_shm / "media").mkdir()
    host = examined(tmp_shm, {"driver": {"aeron_dir": str(tmp_shm / "media" / "aeron")}})
    prefix = mounted(tmpfs(tmp_shm / "media", "size=16m,mode=755"))
    assert "driver.aeron_dir" in assert_found(doctor(host, *prefix), "shm-size")["rule"]


def test_a_file_system_that_others_have_filled(tmp_shm: Path) -> None:
    base = tmp_shm / "base"
    base.mkdir()
    fill = f"head -c 3900k /dev/zero > {base}/filler"
    prefix = mounted(tmpfs(base, "size=4m,mode=755"), fill)
    assert_found(doctor(examined(tmp_shm), *prefix), "shm-space")


def test_a_disk(tmp_shm: Path) -> None:
    never_made = Path(__file__).parent / "base"
    host = examined(tmp_shm, {"shm": {"base_dir": str(never_made)}})
    assert_found(doctor(host), "not-in-memory")
    assert not never_made.exists()


def test_commands_of_the_prefixes_exist() -> None:
    for tool in ("unshare", "setpriv", "prlimit", "mount"):
        assert shutil.which(tool), f"{tool} (util-linux) is needed by these tests"
