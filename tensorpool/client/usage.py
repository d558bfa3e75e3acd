"""Who may use a producer or a consumer: one thread at a time, and never a forked child."""

from __future__ import annotations

import threading
from threading import get_ident

from tensorpool.client.errors import ConcurrentUse


class OneUser:
    """Lets one thread in at a time and refuses the second instead of letting it wait.

    A second thread is a mistake of the program, never a matter of luck: whoever reads frames
    beside another reads every other frame.
    """

    __slots__ = ("_lock", "_user", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._user = 0

    def enter(self) -> None:
        """Begin a use.

        Raises:
            ConcurrentUse: another thread, or an outer call of this one, is in between.
        """
        if not self._lock.acquire(blocking=False):
            raise ConcurrentUse(
                f"this {self._what} is in use by "
                + ("an outer call" if self._user == get_ident() else "another thread")
                + f": give each thread a {self._what} of its own (pool.{self._what}(...))"
            )
        self._user = get_ident()

    def leave(self) -> None:
        """End the use."""
        self._user = 0
        self._lock.release()

    def wait_free(self, timeout_s: float) -> None:
        """Until a use by another thread has ended, `timeout_s` seconds at most.

        A use by this thread goes on: it is what asks.
        """
        if self._user != get_ident() and self._lock.acquire(timeout=timeout_s):
            self._lock.release()
