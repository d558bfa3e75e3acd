"""What happens to a pool's leases and its connection, kept and told to who wants to know."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tensorpool.clock import monotonic_ns

_log = logging.getLogger(__name__)
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that happened to a lease or to the connection.

    Attributes:
        what: a stable word: `attached`, `reattached`, `attach_rejected`, `protocol_error`,
            `lease_revoked`, `lease_expired`, `lease_lost`, `producer_gone`, `epoch_changed`,
            `driver_shutdown`, `media_driver_lost`, `media_driver_back`.
        stream_id: the lease's stream, None for the connection.
        lease_id: the lease, None if there is none.
        detail: reason and numbers, for people.
        at_ns: when, CLOCK_MONOTONIC.
    """

    what: str
    stream_id: int | None = None
    lease_id: int | None = None
    detail: str = ""
    at_ns: int = field(default_factory=monotonic_ns)


class EventLog:
    """The events of one pool.

    Attributes:
        latest: the latest ones, oldest first.
    """

    def __init__(self, on_event: Callable[[PoolEvent], None] | None) -> None:
        self.latest: deque[PoolEvent] = deque(maxlen=_KEPT)
        self._on_event = on_event
        self._undelivered: deque[PoolEvent] = deque()

    def emit(
        self,
        what: str,
        stream_id: int | None = None,
        lease_id: int | None = None,
        detail: str = "",
    ) -> None:
        """Keep and log an event; the user's callback hears of it at the next `deliver`."""
        event = PoolEvent(what, stream_id, lease_id, detail)
        self.latest.append(event)
        fields = {"stream_id": stream_id, "lease_id": lease_id, "detail": detail}
        _log.info(what, extra={name: value for name, value in fields.items() if value})
        if self._on_event is not None:
            self._undelivered.append(event)

    def deliver(self) -> None:
        """Call the user back, with no lock held."""
        while self._undelivered:
            event = self._undelivered.popleft()
            try:
                assert self._on_event is not None
                self._on_event(event)
            except Exception:  # noqa: BLE001 - a user's fault must not end the keeper
                _log.exception("the event callback failed", extra={"event": event.what})
