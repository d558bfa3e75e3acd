"""Who may use a producer, consumer or gathering: one thread at a time, never a forked child."""

from __future__ import annotations

import time
from threading import get_ident

from tensorpool.client.errors import ConcurrentUse
from tensorpool.client.hot import UserGate

CLOSE_PATIENCE_S = 2.0
"""A use by another thread notices a close at its next look."""
_LOOK_S = 0.001
_TENDING_LOOK_S = 0.0001


class OneUser(UserGate):
    """Lets one thread in at a time and refuses the second instead of letting it wait.

    A second thread is a mistake of the program, never a matter of luck: whoever reads frames
    beside another reads every other frame.
    """

    __slots__ = ("_is_tended", "_lender", "_maker", "_tendings", "what")

    def __init__(self, what: str, maker: str = "") -> None:
        super().__init__()
        self.what = what
        self._maker = maker or what
        self._lender: OneUser | None = None
        self._is_tended = False
        self._tendings = 0

    @property
    def user_uses(self) -> int:
        """How often anybody but the keeper came in."""
        return self.uses - self._tendings

    @property
    def owner(self) -> OneUser:
        """Whose use it is: the one it is lent to, or itself."""
        return self if self._lender is None else self._lender

    def begin_tending(self) -> bool:
        """The keeper comes in for a moment; False if a user is there.

        A user who comes meanwhile waits, and is not refused.
        """
        self._is_tended = True
        if self.enter():
            self._tendings += 1
            return True
        self._is_tended = False
        return False

    def end_tending(self) -> None:
        """It leaves."""
        self.leave()
        self._is_tended = False

    def enter_after_keeper(self) -> bool:
        """Begin a use, as soon as the keeper is out; False if another user is in one."""
        if self.enter():
            return True
        deadline_s = time.monotonic() + CLOSE_PATIENCE_S
        while self._is_tended and time.monotonic() < deadline_s:
            time.sleep(_TENDING_LOOK_S)
        return self.enter()

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
        if not self.enter_after_keeper():
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
        if not self.enter_after_keeper():
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
        return self.owner.is_used_elsewhere()
