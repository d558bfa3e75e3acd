"""What tests of every kind share."""

import time
from collections.abc import Callable

POLL_S = 0.005


def wait_until[T](
    predicate: Callable[[], T], deadline_s: float, what: str | Callable[[], str]
) -> T:
    """Poll `predicate` until it is true, and return what it gave.

    Args:
        predicate: asked every few milliseconds, and once more at the deadline.
        deadline_s: how long to wait at most, in seconds; generous, since nothing waits it out.
        what: what is waited for, for the failure; a function can tell the last state.

    Raises:
        AssertionError: still not true at the deadline.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        is_last = time.monotonic() >= deadline
        if result := predicate():
            return result
        if is_last:
            reason = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {deadline_s:g} s in vain for {reason}")
        time.sleep(POLL_S)
