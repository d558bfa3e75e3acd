"""The Aeron directory: whose it is, whether its media driver lives, and how that one is set."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping

from tensorpool.aeron.client import has_media_driver_file
from tensorpool.aeron.cnc import CncOwner, find_live_owner, read_owner
from tensorpool.doctor.finding import Finding, Severity
from tensorpool.launcher.host_file import HostReport, read_host
from tensorpool.settings import HostSettings

_WINDOW_LIMIT_MS = 500
"""A stalled subscriber must not hold a producer up for longer."""
_TETHER = "AERON_TETHER_SUBSCRIPTIONS"
_WINDOW = "AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT"
_DEFAULT_WINDOW = "5s"
_DURATION = re.compile(r"(\d+)(ns|us|ms|s|)\Z")
_MS_PER_UNIT = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "": 1e-6}
_PROPERTY = re.compile(r"-D(aeron\.[\w.]+)=(.*)\Z", re.DOTALL)


def check_aeron(settings: HostSettings) -> Iterator[Finding]:
    """The directory, and the media driver in it."""
    path = settings.aeron_dir
    found = list(_directory(settings, path))
    yield from found
    if any(finding.severity is Severity.ERROR for finding in found):
        return
    host = read_host(settings.shm)
    if host is not None and not _is_external(host):
        return  # Its media driver is ours, and the launcher looks after it.
    owner = find_live_owner(path)
    if owner is not None:
        yield from _settings_of(owner, settings)
    elif not settings.media_driver.embedded:
        yield Finding(
            "media-driver-missing",
            Severity.ERROR,
            f"no media driver lives in {path}",
            "media_driver.embedded = false needs one there",
            "start one with that directory, or set media_driver.embedded = true",
        )
    elif has_media_driver_file(path):
        left = read_owner(path)
        yield Finding(
            "aeron-stale",
            Severity.WARNING,
            f"{path} was left behind by a media driver that is gone"
            + (f" (pid {left.pid})" if left is not None else ""),
            "a media driver that ends removes its directory; one that was killed leaves it, with "
            "its memory",
            f"`tensorpool up` replaces it; to free the memory now, `rm -r {path}`",
        )


def _is_external(host: HostReport) -> bool:
    return any(
        process["name"] == "media_driver" and not process["needed"] for process in host["processes"]
    )


def _directory(settings: HostSettings, path: str) -> Iterator[Finding]:
    parent = os.path.dirname(path) or "/"
    try:
        info = os.lstat(path)
    except OSError:
        if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
            yield Finding(
                "aeron-parent",
                Severity.ERROR,
                f"{path} is missing, and {parent} cannot be written by uid {os.geteuid()}",
                "driver.aeron_dir can be made by the media driver",
                f"make {parent} writable, or set driver.aeron_dir or AERON_DIR to another",
            )
        return
    if not stat.S_ISDIR(info.st_mode):
        yield Finding(
            "aeron-type",
            Severity.ERROR,
            f"{path} is no directory" + (" but a symlink" if stat.S_ISLNK(info.st_mode) else ""),
            "driver.aeron_dir is a directory of its own",
            f"remove {path}, or set driver.aeron_dir to another",
        )
        return
    if settings.media_driver.embedded and info.st_uid != os.geteuid():
        yield Finding(
            "aeron-owner",
            Severity.ERROR,
            f"{path} belongs to uid {info.st_uid}, we are uid {os.geteuid()}",
            "the media driver that `tensorpool up` starts empties its directory, so it must own it",
            "run as its owner, remove it, or set driver.aeron_dir or AERON_DIR to another",
        )
    if info.st_mode & stat.S_IWOTH:
        yield Finding(
            "aeron-mode",
            Severity.ERROR,
            f"{path} has mode {stat.S_IMODE(info.st_mode):04o}: everybody may replace its files",
            "only the media driver's user and group may write its directory",
            f"`chmod o-w {path}`, and start the media driver with umask 0022 or 0002",
        )


def _settings_of(owner: CncOwner, settings: HostSettings) -> Iterator[Finding]:
    environment = _environment(owner.pid)
    who = f"the media driver in {settings.aeron_dir} (pid {owner.pid}), which is not ours,"
    if environment is None:
        yield Finding(
            "media-driver-hidden",
            Severity.WARNING,
            f"{who} does not show its settings: another user's, or in another pid namespace",
            "tether and window settings of an external media driver are known",
            f"check that it runs with {_own_settings(settings)}",
        )
        return
    if environment.get(_TETHER, "true").lower() != "false":
        yield Finding(
            "media-driver-tether",
            Severity.WARNING,
            f"{who} tethers its subscribers ({_TETHER} is "
            f"{environment.get(_TETHER) or 'not set, so true'})",
            "one frozen subscriber must not stop a stream for the others",
            f"let `tensorpool up` start one, or start it with {_own_settings(settings)}",
        )
        return
    window = environment.get(_WINDOW, _DEFAULT_WINDOW)
    if _milliseconds(window) > _WINDOW_LIMIT_MS:
        yield Finding(
            "media-driver-window",
            Severity.WARNING,
            f"{who} waits {window} for a stalled subscriber ({_WINDOW})",
            f"a stalled subscriber holds a stream up for at most {_WINDOW_LIMIT_MS} ms",
            f"let `tensorpool up` start one, or start it with {_own_settings(settings)}",
        )


def _own_settings(settings: HostSettings) -> str:
    """What a media driver of ours is started with; Aeron refuses some of them without others."""
    return " ".join(f"{name}={value}" for name, value in settings.media_driver.environment)


def _environment(pid: int) -> Mapping[str, str] | None:
    """Aeron's settings of a process, as variables: of its environment, or Java properties."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = [item.partition(b"=") for item in file.read().split(b"\0")]
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    found = {name.decode("utf-8", "replace"): v.decode("utf-8", "replace") for name, _, v in pairs}
    for argument in arguments:
        if (match := _PROPERTY.match(argument)) is not None:
            found[match[1].upper().replace(".", "_")] = match[2]
    return found


def _milliseconds(text: str) -> float:
    match = _DURATION.match(text.strip().lower())
    return int(match[1]) * _MS_PER_UNIT[match[2]] if match else float("inf")
