"""Signals as events of one loop: handlers only enqueue."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from types import TracebackType
from typing import Self

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class SignalQueue:
    """While entered, the handled signals arrive here; wait on it for reading.

    As process 1 of a container SIGCHLD is handled too: orphans of the whole container
    become our children, and only we can reap them.
    """

    def __init__(self) -> None:
        self.is_init = os.getpid() == 1
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        self._former: dict[int, signal._HANDLER] = {}
        self._former_fd = -1

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`."""
        return self._reader.fileno()

    def take(self) -> list[signal.Signals]:
        """What arrived since the last call, in order."""
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            while data := self._reader.recv(4096):
                numbers += data
        return [signal.Signals(number) for number in numbers]

    def __enter__(self) -> Self:
        handled = (*HANDLED, signal.SIGCHLD) if self.is_init else HANDLED
        # The interpreter writes the number of each signal that has a handler to this end.
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in handled:
            self._former[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        self._reader.close()
        self._writer.close()


def reap_orphans(own: set[int]) -> None:
    """Reap every ended process that was handed to us as process 1; `own` are left alone."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # One of our own in front hides the others until its owner has reaped it.
        if found is None or found.si_pid in own:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)
