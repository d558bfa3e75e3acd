"""The system around the host: clock source, systemd-logind, the pid namespace."""

from __future__ import annotations

import configparser
import glob
import os
import pwd
from collections.abc import Iterator

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.registry import RegistryError, RegistryReader, process_start_ticks
from tensorpool.settings import HostSettings

_CLOCK_SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
_SLOW_CLOCK_SOURCES = frozenset({"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"})
"""Read through a system call and a slow device, where others are read in user space."""

_SYSTEMD_RUNS = "/run/systemd/system"
_LINGER = "/var/lib/systemd/linger"
_LOGIND_ROOTS = ("/usr/lib/systemd", "/run/systemd", "/etc/systemd")
"""From the weakest to the strongest."""
_LAST_SYSTEM_UID = 999
_CLEANED = "/dev/shm"  # noqa: S108 - the directory that logind cleans


def check_clock(settings: HostSettings) -> Iterator[Finding]:  # noqa: ARG001 - as every check
    """The kernel's clock source: every duty cycle and every frame reads the clock."""
    try:
        with open(_CLOCK_SOURCE, encoding="ascii") as file:
            found = file.read().strip()
    except OSError:
        return
    if found in _SLOW_CLOCK_SOURCES:
        yield Finding(
            "clock-source",
            Severity.WARNING,
            f"the kernel's clock source is {found}",
            "the clock is read in user space (tsc, kvm-clock, arch_sys_counter, …): each frame and "
            "each duty cycle reads it",
            f"`cat {os.path.dirname(_CLOCK_SOURCE)}/available_clocksource`, then write a faster "
            "one to current_clocksource, or boot with clocksource=tsc",
        )


def check_remove_ipc(settings: HostSettings) -> Iterator[Finding]:
    """systemd-logind deletes what an ordinary user has in /dev/shm when that user logs out."""
    uid = os.geteuid()
    in_shm = [
        path
        for path in (settings.shm.base_dir, settings.aeron_dir)
        if os.path.realpath(path).startswith(f"{_CLEANED}/")
    ]
    if uid <= _LAST_SYSTEM_UID or not in_shm or not os.path.isdir(_SYSTEMD_RUNS):
        return
    if not is_ipc_removed() or _lingers(uid):
        return
    yield Finding(
        "remove-ipc",
        Severity.WARNING,
        f"systemd-logind runs with RemoveIPC=yes, and uid {uid} is no system user: "
        f"{' and '.join(in_shm)} go when that user's last session ends",
        "the host's files survive the end of a session",
        "RemoveIPC=no in /etc/systemd/logind.conf.d/tensorpool.conf, `loginctl enable-linger`, or "
        f"run as a system user (uid {_LAST_SYSTEM_UID} or below)",
    )


def is_ipc_removed(roots: tuple[str, ...] = _LOGIND_ROOTS) -> bool:
    """The effective RemoveIPC, yes by default; a later file overrides an earlier one."""
    files = [os.path.join(root, "logind.conf") for root in roots]
    # A drop-in replaces one of the same name in a weaker directory; then names are sorted.
    drop_ins = {
        os.path.basename(path): path
        for root in roots
        for path in glob.glob(os.path.join(root, "logind.conf.d", "*.conf"))
    }
    value = "yes"
    for path in (*files, *(drop_ins[name] for name in sorted(drop_ins))):
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        try:
            parser.read(path, encoding="utf-8")
            value = parser.get("Login", "RemoveIPC", fallback=value) or "yes"
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
    return value.strip().lower() not in {"no", "false", "off", "0", "n", "f"}


def _lingers(uid: int) -> bool:
    try:
        return os.path.exists(os.path.join(_LINGER, pwd.getpwuid(uid).pw_name))
    except KeyError:
        return False


def check_registry(settings: HostSettings) -> Iterator[Finding]:
    """The registry can be read, and its living writer is a process that we can see."""
    path = settings.shm.registry_path
    if not os.path.lexists(path):
        return
    try:
        with RegistryReader(path) as registry:
            writer, is_alive = registry.writer, registry.is_writer_alive()
    except RegistryError as error:
        yield Finding(
            "registry-unreadable",
            Severity.WARNING,
            str(error),
            "the registry of a former driver tells the next one which epochs were used",
            "check its owner and mode; the next `tensorpool up` replaces a damaged one",
        )
        return
    if is_alive and process_start_ticks(writer.pid) != writer.start_ticks:
        yield Finding(
            "pid-namespace",
            Severity.WARNING,
            f"the driver that serves {settings.shm.namespace_dir} lives (it holds the registry's "
            f"lock), but its pid {writer.pid} is no process, or another one, of this namespace",
            "commands run in the pid namespace of the host that they look at: `status` cannot see "
            "its processes otherwise, and `drain` cannot signal them",
            "run the command in the host's container (`kubectl exec`), or share the pid namespace "
            "(hostPID, --pid)",
        )
