"""Waiting for a process that is another machine's load away from ready."""

import time
from collections.abc import Callable

from sphinx.errors import SphinxError

DEADLINE_S = 60.0
_POLL_S = 0.05


class NotShown(SphinxError):
    """The documentation cannot be built, since a screen cannot be made."""

    category = "Screens of a live host"


def wait_for[T](look: Callable[[], T | None], what: Callable[[], str]) -> T:
    """Ask `look` until it gives something true, and return that.

    Raises:
        NotShown: it did not in time; `what` says what was waited for.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise NotShown(f"waited {DEADLINE_S:g} s in vain for {what()}")
        time.sleep(_POLL_S)
    return found
