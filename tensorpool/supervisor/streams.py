"""What is known of every stream: epoch, producers, drops, metadata version, when last heard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tensorpool.supervisor.progress import Progress

_MAX_PRODUCERS = 4
"""Of one stream, the exclusive one and its predecessors (Driver §5): the longest silent goes."""
_MAX_NAME_CHARS = 128


@dataclass(slots=True)
class ProducerView:
    """One producer of a stream, by its QoS and its announcements."""

    producer_id: int
    last_seen_ns: int
    progress: Progress = field(default_factory=Progress)


@dataclass(slots=True)
class StreamView:
    """One stream.

    Attributes:
        epoch: the highest announced, 0 before the first announce.
        epoch_changes: how often that changed while we looked.
        announced_ns: when it was last announced, 0 if never.
        last_seen_ns: when anything was last heard of the stream.
        producers: by producer id, the longest silent first.
        consumers: ids of those that are alive.
        drops_gap, drops_late: of all its consumers since we look (Wire §10.4.1).
        frames: published since we look, by its producers' reports.
        meta_version: of its metadata, None before the first.
        name: of its data source, as announced.
    """

    stream_id: int
    last_seen_ns: int
    epoch: int = 0
    epoch_changes: int = 0
    announced_ns: int = 0
    header_nslots: int = 0
    producers: OrderedDict[int, ProducerView] = field(default_factory=OrderedDict)
    consumers: set[int] = field(default_factory=set)
    drops_gap: int = 0
    drops_late: int = 0
    frames: int = 0
    meta_version: int | None = None
    name: str = ""

    def on_epoch(self, epoch: int, header_nslots: int, now_ns: int) -> None:
        """It was announced; epochs only grow (Wire §10.1.1)."""
        self.announced_ns = now_ns
        if epoch <= self.epoch:
            return
        self.epoch_changes += self.epoch != 0
        self.epoch, self.header_nslots = epoch, header_nslots

    def on_meta(self, meta_version: int, name: str | None = None) -> None:
        """Its metadata version was announced."""
        self.meta_version = meta_version
        if name is not None:
            self.name = name[:_MAX_NAME_CHARS]

    def producer(self, producer_id: int, now_ns: int) -> ProducerView:
        """The producer, known or new, marked as heard now."""
        view = self.producers.get(producer_id)
        if view is None:
            if len(self.producers) == _MAX_PRODUCERS:
                self.producers.popitem(last=False)
            view = self.producers[producer_id] = ProducerView(producer_id, now_ns)
        view.last_seen_ns = now_ns
        self.producers.move_to_end(producer_id)
        return view

    def live_producers(self, now_ns: int, stale_ns: int) -> list[ProducerView]:
        """Those heard within `stale_ns`."""
        return [view for view in self.producers.values() if view.last_seen_ns + stale_ns > now_ns]


class StreamTable:
    """At most `capacity` streams; a new one takes the place of the longest silent.

    Attributes:
        refused: messages of streams for which there was no place.
    """

    def __init__(self, capacity: int, stale_ns: int) -> None:
        self.capacity = capacity
        self.stale_ns = stale_ns
        self.refused = 0
        self._by_id: OrderedDict[int, StreamView] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[StreamView]:
        return iter(self._by_id.values())

    def snapshot(self) -> list[StreamView]:
        """All of them as of one moment, for another thread."""
        return list(self._by_id.values())

    def get(self, stream_id: int) -> StreamView | None:
        """The stream, if it is known."""
        return self._by_id.get(stream_id)

    def touch(self, stream_id: int, now_ns: int) -> StreamView | None:
        """The stream, known or new, marked as heard now; None if every place has a live one."""
        view = self._by_id.get(stream_id)
        if view is None:
            if len(self._by_id) >= self.capacity and not self._make_room(now_ns):
                self.refused += 1
                return None
            view = self._by_id[stream_id] = StreamView(stream_id, now_ns)
        view.last_seen_ns = now_ns
        self._by_id.move_to_end(stream_id)
        return view

    def _make_room(self, now_ns: int) -> bool:
        oldest = next(iter(self._by_id.values()))
        if oldest.last_seen_ns + self.stale_ns > now_ns or oldest.consumers:
            return False
        del self._by_id[oldest.stream_id]
        return True
