"""Messages on their way out: in order, retried under back pressure, never lost silently."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import Offer, Publication
from tensorpool.logs import RateLimit, counted

_log = logging.getLogger(__name__)

CAPACITY = 65_536
"""Messages kept under back pressure; beyond it the oldest is dropped, counted and logged."""


class Outbox:
    """An ordered queue in front of one publication.

    Attributes:
        sent, back_pressured, dropped: totals; a message that found no subscriber at all
            counts as dropped.
    """

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self._waiting: deque[bytes] = deque()
        self._drop_log = RateLimit()
        self.sent = 0
        self.back_pressured = 0
        self.dropped = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything so far went out."""
        return not self._waiting

    def send(self, message: tuple[Any, ...]) -> None:
        """Offer the message now, or as soon as back pressure ends."""
        data = wire.encode(message)
        if self._waiting or not self._offer(data):
            if len(self._waiting) == CAPACITY:
                self._waiting.popleft()
                self._drop("outbox full")
            self._waiting.append(data)

    def flush(self) -> int:
        """Offer what waits; how many messages went out."""
        count = 0
        while self._waiting and self._offer(self._waiting[0]):
            self._waiting.popleft()
            count += 1
        return count

    def _offer(self, data: bytes) -> bool:
        result = self._publication.offer(data)
        if result is Offer.BACK_PRESSURED:
            self.back_pressured += 1
            return False
        if result is Offer.NOT_CONNECTED:
            self._drop("no subscriber")
        else:
            self.sent += 1
        return True

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        suppressed = self._drop_log.take()
        if suppressed is not None:
            _log.warning(
                "message dropped",
                extra={
                    "reason": reason,
                    "aeron_stream_id": self._publication.endpoint.stream_id,
                    **counted(suppressed),
                },
            )
