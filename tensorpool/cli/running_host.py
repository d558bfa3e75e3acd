"""The launcher that runs on a namespace, and signalling it without hitting another process."""

from __future__ import annotations

import os
import select
import signal
import time
from types import TracebackType
from typing import Self

from tensorpool.errors import HostError
from tensorpool.host_lock import is_held, openers
from tensorpool.launcher.host_file import HostReport, read_host
from tensorpool.launcher.locks import namespace_lock_path
from tensorpool.settings import ShmSettings

_POLL_S = 0.01


class Launcher:
    """A running `tensorpool up`; a context manager.

    It is the process that its own account names and that holds the namespace's lock open;
    a descriptor of it (pidfd) keeps its number from being another's.

    Attributes:
        pid: its process.
        report: its account when it was found.

    Raises:
        HostError: none runs, or the one that runs is not ours to signal.
    """

    def __init__(self, shm: ShmSettings) -> None:
        self._lock = namespace_lock_path(shm)
        report = read_host(shm)
        if report is None:
            raise HostError(_absence(shm, self._lock))
        self.report: HostReport = report
        self.pid = report["pid"]
        try:
            self._fd = os.pidfd_open(self.pid)
        except OSError as error:
            raise HostError(_absence(shm, self._lock)) from error
        if self.pid not in openers(self._lock):
            os.close(self._fd)
            raise HostError(
                f"the host on {shm.namespace_dir} (pid {self.pid}) is another user's, or lives in "
                "another pid namespace; run the command as its user, in its container"
            )

    def send(self, number: signal.Signals) -> None:
        """Signal it.

        Raises:
            HostError: it has just ended.
        """
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError as error:
            raise HostError(f"the host (pid {self.pid}) has just ended") from error

    def wait_down(self, seconds: float) -> bool:
        """Until it and its children are gone; False if they are not in time."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(max(seconds, 0) * 1000):
            return False
        # Its children hold the lock too, and may outlive it for a moment.
        while is_held(self._lock):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def _absence(shm: ShmSettings, lock: str) -> str:
    if is_held(lock):
        pids = ", ".join(map(str, openers(lock))) or "not visible from here"
        return (
            f"no launcher answers for {shm.namespace_dir}, but processes hold its lock (pid "
            f"{pids}): a host that is starting, that was killed and drains, or that lives in "
            "another pid namespace"
        )
    return (
        f"no `tensorpool up` runs on {shm.namespace_dir}; --config names the file of the host that "
        "you mean"
    )
