"""`ShmPoolAnnounce`: encoded once an epoch, patched and sent at the cadence (Wire §10.1.1).

Announces are soft state. Under back pressure one waits for the next duty cycle, with a
fresh timestamp; it never delays what is on the control stream.
"""

from __future__ import annotations

import heapq
import struct

from tensorpool import wire
from tensorpool.aeron.client import Offer, Publication
from tensorpool.aeron.outbox import SendTotals
from tensorpool.driver.streams import Stream, StreamTable
from tensorpool.shm.layout import HEADER_SLOT_BYTES, LAYOUT_VERSION
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.control import CONTROL, ClockDomain, ShmPoolAnnounce

_OFFSETS = CONTROL.by_type[ShmPoolAnnounce].offsets
_TIMESTAMP_AT = MESSAGE_HEADER.size + _OFFSETS["announce_timestamp_ns"]
_PRODUCER_AT = MESSAGE_HEADER.size + _OFFSETS["producer_id"]
_TIMESTAMP = struct.Struct("<Q")
_PRODUCER = struct.Struct("<I")

MAX_PER_CYCLE = 64
"""Announces in one duty cycle: its longest step stays bounded however many streams there are."""


class Announcer:
    """Sends each stream's announce at once when it changes, then periodically.

    Args:
        publication: where announces go.
        period_ns: from one announce of a stream to its next.
        totals: to count in; an attempt that must be repeated is back-pressured.
    """

    def __init__(
        self, publication: Publication, period_ns: int, totals: SendTotals | None = None
    ) -> None:
        self._publication = publication
        self._period_ns = period_ns
        self._messages: dict[int, bytearray] = {}
        self._due: list[tuple[int, int]] = []
        self._due_at: dict[int, int] = {}
        self._totals = totals if totals is not None else SendTotals()

    def announce_now(self, stream: Stream, now_ns: int) -> None:
        """The stream has new regions or another producer: announce in this duty cycle."""
        assert stream.epoch is not None
        self._messages[stream.stream_id] = bytearray(
            wire.encode(
                ShmPoolAnnounce(
                    stream.stream_id,
                    stream.producer_id,
                    stream.epoch.epoch,
                    now_ns,
                    ClockDomain.MONOTONIC,
                    LAYOUT_VERSION,
                    stream.profile.header_nslots,
                    HEADER_SLOT_BYTES,
                    stream.epoch.pools,
                    stream.epoch.header_uri,
                )
            )
        )
        self._schedule(stream.stream_id, now_ns)

    def withdraw(self, stream_id: int) -> None:
        """The stream's regions are no longer valid: announce them no more."""
        self._messages.pop(stream_id, None)
        self._due_at.pop(stream_id, None)

    def do_work(self, now_ns: int, streams: StreamTable) -> int:
        """Send what is due; how many went out."""
        count = 0
        while self._due and self._due[0][0] <= now_ns and count < MAX_PER_CYCLE:
            due_ns, stream_id = self._due[0]
            stream = streams.get(stream_id)
            if self._due_at.get(stream_id) != due_ns or stream is None or stream.epoch is None:
                heapq.heappop(self._due)  # superseded by a later change, or withdrawn
                continue
            stream.epoch.refresh_activity(now_ns)
            message = self._messages[stream_id]
            _TIMESTAMP.pack_into(message, _TIMESTAMP_AT, now_ns)
            _PRODUCER.pack_into(message, _PRODUCER_AT, stream.producer_id)
            # Nobody listening is no failure: whoever comes gets the next one.
            if self._publication.offer(message) is Offer.BACK_PRESSURED:
                self._totals.back_pressured += 1
                break
            heapq.heappop(self._due)
            self._schedule(stream_id, now_ns + self._period_ns)
            self._totals.sent += 1
            count += 1
        return count

    def _schedule(self, stream_id: int, due_ns: int) -> None:
        self._due_at[stream_id] = due_ns
        heapq.heappush(self._due, (due_ns, stream_id))
