"""Locks that say "somebody owns this host resource": an Aeron directory, a namespace.

A lock is `flock` on a small file, never POSIX `lockf` (lost when any descriptor of the
file closes). The children of `tensorpool up` inherit the descriptor, so the lock stays
held until the last process of the tree is gone, however the parent ended. The file's text
(the holder's pid and its pid namespace) only explains; it decides nothing but how long to
wait. The lock itself holds across containers that share the directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import NamedTuple, Self

from tensorpool.errors import HostError
from tensorpool.pid_namespace import own_pid_namespace

_RETRY_S = 0.02


class HostLock:
    """A held lock.

    Args:
        path: the lock file; its directory must exist.
        what: what it guards, for the refusal.
        wait_s: how long to wait for the processes of a holder that is itself gone, or that
            is of another container and may be. A living holder is not waited for.

    Raises:
        HostError: somebody else holds it (the message names the pid), or the file cannot
            be made.
    """

    def __init__(self, path: str, what: str, *, wait_s: float = 0.0) -> None:
        self.path = path
        self.fd = _acquire(path, what, time.monotonic() + wait_s)

    def release(self) -> None:
        """Unlink the file and let go, from every process that inherited it; idempotent."""
        if self.fd < 0:
            return
        # Unlinked while still held: whoever opens the path afterwards makes a new file.
        if _is_same_file(self.path, self.fd):
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)
        self.fd = -1


def is_held(path: str) -> bool:
    """Whether some process holds the lock at `path`.

    Takes it shared for an instant; who wants it at that instant tries again.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _acquire(path: str, what: str, deadline: float) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise HostError(
                f"{what}: cannot open its lock file {path}: {error.strerror}; "
                "check the directory's owner and mode"
            ) from error
        _require_lock_file(path, what, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = Holder.parse(os.pread(fd, 64, 0))
            os.close(fd)
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise HostError(f"{what}: cannot lock {path}: {error.strerror}") from error
            may_be_gone = holder.is_foreign or not _is_alive(holder.pid)
            if may_be_gone and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
                continue
            raise HostError(_refusal(path, what, holder, is_holder_gone=may_be_gone)) from None
        if _is_same_file(path, fd):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {own_pid_namespace()}\n".encode(), 0)
            return fd
        os.close(fd)  # The former holder unlinked it between our open and our lock.


class Holder(NamedTuple):
    """Who holds a lock, as its file tells: a pid, and the pid namespace that it is of."""

    pid: str
    pid_namespace: str

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """What the lock file says."""
        pid, _, namespace = text.decode("ascii", "replace").strip().partition(" ")
        return cls(pid, namespace)

    @property
    def is_foreign(self) -> bool:
        """Whether its pid means nothing here: it is of another container."""
        return bool(self.pid_namespace) and self.pid_namespace != str(own_pid_namespace())


def _require_lock_file(path: str, what: str, fd: int) -> None:
    """A lock is written to: never to a file of somebody else's, or that has another name."""
    info = os.fstat(fd)
    problem = None
    if not stat.S_ISREG(info.st_mode):
        problem = "is no regular file"
    elif info.st_uid != os.geteuid():
        problem = f"belongs to uid {info.st_uid}, we are uid {os.geteuid()}"
    elif info.st_nlink > 1:
        problem = "has another name as well (a hard link)"
    if problem is not None:
        os.close(fd)
        raise HostError(f"{what}: its lock file {path} {problem}; remove it")


def _refusal(path: str, what: str, holder: Holder, *, is_holder_gone: bool) -> str:
    if holder.is_foreign:
        return (
            f"{what} is in use by a `tensorpool up` of another container (its pid {holder.pid}, "
            f"pid namespace {holder.pid_namespace}); run one on a node: stop that one first, or "
            "configure another directory or namespace"
        )
    if not is_holder_gone:
        return (
            f"{what} is in use by another `tensorpool up` (pid {holder.pid}); stop that one first, "
            "or configure another directory or namespace"
        )
    pids = ", ".join(map(str, openers(path))) or "unknown"
    return (
        f"{what} is still in use: its `tensorpool up` (pid {holder.pid or 'unknown'}) is gone, but "
        f"processes of it are not (pid {pids}); end them, or configure another directory or "
        "namespace"
    )


def openers(path: str) -> list[int]:
    """Processes of our pid namespace that have the file open, as far as we may look."""
    found = set()
    path = os.path.realpath(path)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                    found.add(int(pid))
    return sorted(found)


def _is_alive(pid: str) -> bool:
    """Whether a process of that number runs; a zombie does not."""
    if not pid.isdigit():
        return False
    try:
        with open(f"/proc/{int(pid)}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def _is_same_file(path: str, fd: int) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
