"""Who may use a producer, consumer or gathering: one thread at a time, never a forked child."""

from __future__ import annotations

import time
from threading import get_ident

from tensorpool.client.errors import ConcurrentUse
from tensorpool.client.hot import UserGate

CLOSE_PATIENCE_S = 2.0
"""A use by another thread notices a close at its next look."""
_LOOK_S = 0.001


class OneUser(UserGate):
    """Lets one thread in at a time and refuses the second instead of letting it wait.

    A second thread is a mistake of the program, never a matter of luck: whoever reads frames
    beside another reads every other frame.
    """

    __slots__ = ("_lender", "_maker", "what")

    def __init__(self, what: str, maker: str = "") -> None:
        super().__init__()
        self.what = what
        self._maker = maker or what
        self._lender: OneUser | None = None

    def refusal(self) -> ConcurrentUse:
        """The error for whoever comes in between."""
        if self._lender is not None:
            return ConcurrentUse(
                f"this {self.what} is in a {self._lender.what}: have its frames from there, or "
                f"close the {self._lender.what} first"
            )
        who = "an outer call" if self.thread == get_ident() else "another thread"
        return ConcurrentUse(
            f"this {self.what} is in use by {who}: give each thread a {self.what} of its own "
            f"(pool.{self._maker}(...))"
        )

    def lend(self, to: OneUser) -> None:
        """From now on whoever uses `to` uses this one too, and nobody else may.

        Raises:
            ConcurrentUse: it is in use, or lent already.
        """
        if not self.enter():
            raise self.refusal()
        self._lender = to

    def take_back(self) -> None:
        """It is lent no longer; idempotent."""
        if self._lender is not None:
            self._lender = None
            self.leave()

    def __enter__(self) -> None:
        """Begin a use.

        Raises:
            ConcurrentUse: another thread, or an outer call of this one, is in between.
        """
        if not self.enter():
            raise self.refusal()

    def __exit__(self, *_: object) -> None:
        """End the use."""
        self.leave()

    def wait_free(self, timeout_s: float) -> None:
        """Until a use by another thread has ended, `timeout_s` seconds at most.

        A use by this thread goes on: it is what asks. One that is lent is in use while the one it
        is lent to is.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._is_used_by_others() and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)

    def is_used_elsewhere(self) -> bool:
        """Whether another thread uses it now."""
        return self.is_in_use and self.thread != get_ident()

    def _is_used_by_others(self) -> bool:
        return (self if self._lender is None else self._lender).is_used_elsewhere()
