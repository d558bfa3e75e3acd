"""Who may use a producer or a consumer: one thread at a time, and never a forked child."""

from __future__ import annotations

import threading
from threading import get_ident

from tensorpool.client.errors import ConcurrentUse


class OneUser:
    """Lets one thread in at a time and refuses the second instead of letting it wait.

    A second thread is a mistake of the program, never a matter of luck: whoever reads frames
    beside another reads every other frame.

    Used by hand, since it stands on the path of every frame:

        if not user.acquire(False):
            raise user.refusal()
        user.thread = get_ident()
        try: ...
        finally: user.release()
    """

    __slots__ = ("_lock", "_what", "acquire", "release", "thread")

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self.thread = 0

    def refusal(self) -> ConcurrentUse:
        """The error for whoever comes in between."""
        who = "an outer call" if self.thread == get_ident() else "another thread"
        return ConcurrentUse(
            f"this {self._what} is in use by {who}: give each thread a {self._what} of its own "
            f"(pool.{self._what}(...))"
        )

    def __enter__(self) -> None:
        """Begin a use.

        Raises:
            ConcurrentUse: another thread, or an outer call of this one, is in between.
        """
        if not self.acquire(blocking=False):
            raise self.refusal()
        self.thread = get_ident()

    def __exit__(self, *_: object) -> None:
        """End the use."""
        self.release()

    def wait_free(self, timeout_s: float) -> None:
        """Until a use by another thread has ended, `timeout_s` seconds at most.

        A use by this thread goes on: it is what asks.
        """
        is_ours = self._lock.locked() and self.thread == get_ident()
        if not is_ours and self.acquire(timeout=timeout_s):
            self.release()
