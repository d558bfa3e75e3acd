"""The directories above the streams: made with the right owner and mode, or refused.

    <base_dir>/tensorpool-<user>/<namespace>

Every component below the base directory must belong to us and be writable by nobody else
(design §4.10); no component may be a symlink.
"""

from __future__ import annotations

import os
import stat

from tensorpool.errors import HostError
from tensorpool.settings import ShmSettings

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_BASE_MODE = 0o1777


def directory_mode(permissions_mode: int) -> int:
    """Mode of the directories around files of `permissions_mode`.

    Whoever may read the files may pass; only the driver's user may write. With group access
    new entries keep the directory's group (setgid).
    """
    if permissions_mode & 0o070:
        return 0o2750
    return 0o700


def prepare_namespace(shm: ShmSettings) -> int:
    """Make the namespace directory if it is not there; an open descriptor of it.

    Raises:
        HostError: a component cannot be made, is a symlink or no directory, belongs to
            somebody else, or may be written by others.
    """
    mode = directory_mode(shm.permissions_mode)
    _make_base(shm.base_dir)
    path = shm.base_dir
    fd = _open_dir(path, None, path)
    try:
        _check_base(path, fd)
        _check_ancestors(path)
        for name in (f"tensorpool-{shm.user}", shm.namespace):
            path = os.path.join(path, name)
            child = open_own_directory(path, name, fd, mode)
            os.close(fd)
            fd = child
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_own_directory(path: str, name: str, parent_fd: int, mode: int) -> int:
    """A descriptor of the directory `name` in `parent_fd`, made with `mode` if missing.

    Raises:
        HostError: see `prepare_namespace`.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        made = True
    except FileExistsError:
        made = False
    except OSError as error:
        raise _refusal(path, f"cannot be made: {error.strerror}") from error
    fd = _open_dir(name, parent_fd, path)
    try:
        if made:
            os.fchmod(fd, mode)
        info = os.fstat(fd)
        if (fault := fault_of_own(info)) is not None:
            raise _refusal(path, fault)
    except BaseException:
        os.close(fd)
        raise
    return fd


def fault_of_base(info: os.stat_result) -> str | None:
    """Why a base directory of this status is not safe, or None."""
    if info.st_mode & stat.S_ISVTX:
        return None
    if info.st_mode & stat.S_IWOTH:
        return "may be written by everybody and has no sticky bit"
    if info.st_mode & stat.S_IWGRP:
        return "may be written by its group and has no sticky bit"
    return None


def fault_of_own(info: os.stat_result) -> str | None:
    """Why a directory of this status below the base directory is not safely ours, or None."""
    if info.st_uid != os.geteuid():
        return f"belongs to uid {info.st_uid}, we are uid {os.geteuid()}"
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"has mode {stat.S_IMODE(info.st_mode):04o}: others than we may write it"
    return None


def _make_base(base_dir: str) -> None:
    parent = os.path.dirname(base_dir) or "/"
    try:
        parent_mode = os.stat(parent).st_mode
        os.mkdir(base_dir, 0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise _refusal(
            base_dir, f"cannot be made: {error.strerror}; make it, or set shm.base_dir to another"
        ) from error
    # Under a shared parent such as /dev/shm, other users' drivers share the base too.
    if parent_mode & stat.S_ISVTX and parent_mode & stat.S_IWOTH:
        os.chmod(base_dir, _SHARED_BASE_MODE)


def _check_base(path: str, fd: int) -> None:
    info = os.fstat(fd)
    if info.st_uid not in {0, os.geteuid()}:
        raise _refusal(
            path,
            f"belongs to uid {info.st_uid}, who may rename what is in it, and we are uid "
            f"{os.geteuid()}; make another and set shm.base_dir to it",
        )
    if (fault := fault_of_base(info)) is not None:
        change = "+t" if info.st_mode & stat.S_IWOTH else "g-w"
        raise _refusal(path, f"{fault}; run `chmod {change}` on it")


def _check_ancestors(path: str) -> None:
    """No directory above lets everybody put another in the place of the one below it."""
    parent = os.path.dirname(os.path.realpath(path))
    while True:
        mode = os.stat(parent).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise _refusal(
                path,
                f"lies below {parent}, which everybody may write and which has no sticky bit; run "
                f"`chmod +t {parent}`",
            )
        if parent == "/":
            return
        parent = os.path.dirname(parent)


def _open_dir(name: str, parent_fd: int | None, path: str) -> int:
    try:
        return os.open(name, _OPEN_DIR, dir_fd=parent_fd)
    except OSError as error:
        raise _refusal(path, f"cannot be opened as a plain directory: {error.strerror}") from error


def _refusal(path: str, why: str) -> HostError:
    return HostError(
        f"directory {path} {why}; the driver keeps shared memory only where nobody else can "
        "tamper with it"
    )
