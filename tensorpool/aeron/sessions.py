"""Which publishers have left a subscription, found by looking.

Not by the binding's handlers: an addition that times out frees the object that a handler is called
with, while the C client's thread may still call it (heap corruption, seen under load).

A session that comes and goes between two looks is not noticed: what it held ends in its own time. A
look costs a microsecond or so a session.
"""

from __future__ import annotations

from tensorpool.aeron.client import Subscription
from tensorpool.clock import NS_PER_MS

_PERIOD_NS = 100 * NS_PER_MS
"""A client that is killed is missed by the media driver after seconds, so this adds little."""


class SessionWatch:
    """Looks at the sessions of some subscriptions ten times a second.

    Raises:
        MediaDriverLost: from its methods, if a subscription was closed under us.
    """

    def __init__(self, *subscriptions: Subscription) -> None:
        self._present = [(subscription, set[int]()) for subscription in subscriptions]
        self._next_ns = 0

    def take_gone(self, now_ns: int) -> set[int]:
        """Sessions that have left at least one of the subscriptions since the last look."""
        gone: set[int] = set()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + _PERIOD_NS
            for subscription, before in self._present:
                present = subscription.session_ids()
                gone |= before - present
                before.clear()
                before.update(present)
        return gone
