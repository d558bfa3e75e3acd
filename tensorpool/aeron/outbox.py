"""Messages on their way out: in order, retried under back pressure, never lost silently."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import Offer, Publication
from tensorpool.logs import RateLimit, counted

_log = logging.getLogger(__name__)

CAPACITY = 65_536
"""Messages kept under back pressure; beyond it the oldest is dropped, counted and logged."""


@dataclass(slots=True)
class SendTotals:
    """Counts that outlive a connection; an unheard message, one without subscribers, is dropped."""

    sent: int = 0
    back_pressured: int = 0
    dropped: int = 0


class Outbox:
    """An ordered queue in front of one publication.

    Args:
        publication: where messages go.
        totals: to go on counting in; new ones without.

    Attributes:
        publication, totals: the same.
    """

    def __init__(self, publication: Publication, totals: SendTotals | None = None) -> None:
        self.publication = publication
        self._waiting: deque[tuple[bytes, Callable[[], None] | None]] = deque()
        self._drop_log = RateLimit()
        self.totals = totals if totals is not None else SendTotals()

    @property
    def is_empty(self) -> bool:
        """Whether everything so far went out."""
        return not self._waiting

    def send(self, message: tuple[Any, ...], on_sent: Callable[[], None] | None = None) -> None:
        """Offer the message now, or as soon as back pressure ends; then `on_sent` is called."""
        data = wire.encode(message)
        if self._waiting or not self._offer(data, on_sent):
            if len(self._waiting) == CAPACITY:
                self._waiting.popleft()
                self._drop("outbox full")
            self._waiting.append((data, on_sent))

    def flush(self) -> int:
        """Offer what waits; how many messages went out."""
        count = 0
        while self._waiting and self._offer(*self._waiting[0]):
            self._waiting.popleft()
            count += 1
        return count

    def _offer(self, data: bytes, on_sent: Callable[[], None] | None) -> bool:
        result = self.publication.offer(data)
        if result is Offer.BACK_PRESSURED:
            self.totals.back_pressured += 1
            return False
        if result is Offer.NOT_CONNECTED:
            self._drop("no subscriber")
        else:
            self.totals.sent += 1
            if on_sent is not None:
                on_sent()
        return True

    def _drop(self, reason: str) -> None:
        self.totals.dropped += 1
        suppressed = self._drop_log.take()
        if suppressed is not None:
            _log.warning(
                "message dropped",
                extra={
                    "reason": reason,
                    "aeron_stream_id": self.publication.endpoint.stream_id,
                    **counted(suppressed),
                },
            )
