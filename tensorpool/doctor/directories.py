"""Owners, modes and sticky bits on the way to the streams; nothing is made or changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.namespace import fault_of_base, fault_of_own
from tensorpool.settings import HostSettings

_SAFE = "the driver keeps shared memory only where nobody else can tamper with it"


def check_directories(settings: HostSettings) -> Iterator[Finding]:
    """The base directory's parent, the base directory, and ours below it."""
    shm = settings.shm
    yield from _check_parent(os.path.dirname(shm.base_dir) or "/", shm.base_dir)
    info = _look(shm.base_dir)
    if info is None:
        return
    if not stat.S_ISDIR(info.st_mode):
        yield _no_directory(shm.base_dir, info)
        return
    if (fault := fault_of_base(info)) is not None:
        yield Finding(
            "base-sticky",
            Severity.ERROR,
            f"{shm.base_dir} {fault}",
            _SAFE,
            f"`chmod +t {shm.base_dir}`",
        )
    yield from _check_own(settings)


def _check_parent(parent: str, base_dir: str) -> Iterator[Finding]:
    info = _look(parent)
    if info is None or not stat.S_ISDIR(info.st_mode):
        yield Finding(
            "base-parent",
            Severity.ERROR,
            f"{parent} is no directory",
            "shm.base_dir is made at the first start, its parent is not",
            f"make {parent}, or set shm.base_dir to another",
        )
        return
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        yield Finding(
            "shm-mode",
            Severity.ERROR,
            f"{parent} has mode {stat.S_IMODE(info.st_mode):04o}: everybody may rename what is in "
            "it, and no sticky bit prevents it",
            _SAFE,
            f"`chmod +t {parent}`; /dev/shm is mounted with mode=1777",
        )
    if not os.path.lexists(base_dir) and not os.access(parent, os.W_OK | os.X_OK):
        yield Finding(
            "base-parent",
            Severity.ERROR,
            f"{base_dir} is missing, and {parent} (mode {stat.S_IMODE(info.st_mode):04o}, uid "
            f"{info.st_uid}) may not be written by uid {os.geteuid()}",
            "shm.base_dir exists, or can be made at the first start",
            f"make {base_dir} and give it to the user that runs `tensorpool up`",
        )


def _check_own(settings: HostSettings) -> Iterator[Finding]:
    user_dir = os.path.dirname(settings.shm.namespace_dir)
    parent = settings.shm.base_dir
    for path in (user_dir, settings.shm.namespace_dir):
        info = _look(path)
        if info is None:
            if not os.access(parent, os.W_OK | os.X_OK):
                yield Finding(
                    "directory-denied",
                    Severity.ERROR,
                    f"{path} is missing, and {parent} may not be written by uid {os.geteuid()}",
                    "the user that runs `tensorpool up` makes its directories below shm.base_dir",
                    f"give {parent} to that user or set its mode to 1777",
                )
            return
        if not stat.S_ISDIR(info.st_mode):
            yield _no_directory(path, info)
            return
        if info.st_uid != os.geteuid():
            yield Finding(
                "directory-owner",
                Severity.ERROR,
                f"{path} {fault_of_own(info)}",
                _SAFE,
                "remove it if nobody needs it, run as its owner, or set shm.base_dir to another",
            )
            return
        if (fault := fault_of_own(info)) is not None:
            yield Finding(
                "directory-mode",
                Severity.ERROR,
                f"{path} {fault}",
                _SAFE,
                f"`chmod go-w {path}`, once you know what others have put there",
            )
        parent = path


def _no_directory(path: str, info: os.stat_result) -> Finding:
    what = "a symlink" if stat.S_ISLNK(info.st_mode) else "no directory"
    return Finding(
        "directory-type",
        Severity.ERROR,
        f"{path} is {what}",
        "no component below shm.base_dir is anything but a directory: symlinks are not followed",
        f"find out who put it there, then remove {path}",
    )


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
