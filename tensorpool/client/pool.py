"""The entry to a host: one connection, one keeper, any number of producers and consumers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Self

from tensorpool.client.attachment import Attachment
from tensorpool.client.consumer import Consumer, checked_gap
from tensorpool.client.errors import PoolClosed
from tensorpool.client.events import PoolEvent
from tensorpool.client.gathering import Gathering
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.presence import Wishes
from tensorpool.client.producer import Producer
from tensorpool.client.progress import ProgressHints
from tensorpool.config import find_config, load, to_settings

DEFAULT_TIMEOUT_S = 5.0


class Pool:
    """A connection to a host's tensor pool; a context manager. Thread-safe.

    Attributes:
        events: the latest events of all leases and of the connection, oldest first.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self._attachments: list[Attachment] = []
        self._lock = threading.Lock()
        self.events: deque[PoolEvent] = keeper.events

    def producer(
        self, stream_id: int, *, client_id: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Producer:
        """Attach as the one producer of `stream_id` (0: a new dynamic stream).

        Args:
            stream_id: the stream.
            client_id: a fixed client id (Driver §4.8), so that a crashed producer's successor is
                let in at once; None draws a random one, and another if it is taken.
            timeout_s: how long to wait for the lease, in seconds, now and whenever `publish`
                finds that there is none.

        Raises:
            AttachRejected: the driver refuses, e.g. another producer is attached.
            NoDriver: nobody answered within `timeout_s` seconds.
            ShmError: the driver's regions break the specification, or cannot be mapped.
            ForkedProcess, PoolClosed: the pool cannot be used here, or any more.
        """
        producer = Producer(self._keeper, stream_id, client_id=client_id, timeout_s=timeout_s)
        self._hold(producer)
        return producer

    def consumer(  # noqa: PLR0913 - what can be wished for
        self,
        stream_id: int,
        *,
        client_id: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_rate_hz: int = 0,
        own_stream: bool | None = None,
        progress: ProgressHints | bool = False,
        max_outstanding_seq_gap: int | None = None,
    ) -> Consumer:
        """Attach as a consumer of `stream_id`.

        Args:
            stream_id: the stream.
            client_id: as for `producer`; it is the consumer id in hello and QoS as well.
            timeout_s: how long to wait for the lease, in seconds.
            max_rate_hz: frames a second at most (mode RATE_LIMITED, Wire §11); 0 for all of them.
                The producer keeps to it on a stream of our own, else frames are skipped here.
            own_stream: whether to ask for a descriptor stream of our own (Wire §5); None asks
                exactly if `max_rate_hz` is set. The shared stream serves until it is granted.
            progress: whether, and how often, to hear of frames being written (`poll_progress`).
            max_outstanding_seq_gap: give up what lies in between once this consumer is so many
                frames behind, and go on with the latest (Wire §15.4; 256 is recommended there);
                None hands out every frame that is still in the ring.

        Raises:
            as `producer` does; ValueError for a number that cannot be.
        """
        if not 0 <= max_rate_hz < 2**32:
            raise ValueError(f"max_rate_hz={max_rate_hz}: 0 to 2**32 - 1 frames a second")
        wishes = Wishes(
            max_rate_hz,
            max_rate_hz > 0 if own_stream is None else own_stream,
            (ProgressHints() if progress else None) if isinstance(progress, bool) else progress,
        )
        consumer = Consumer(
            self._keeper,
            stream_id,
            wishes,
            client_id=client_id,
            timeout_s=timeout_s,
            max_outstanding_seq_gap=checked_gap(max_outstanding_seq_gap),
        )
        self._hold(consumer)
        return consumer

    def gather(self, consumers: Iterable[Consumer]) -> Gathering:
        """One poll loop over many consumers of this pool, for one thread.

            with pool.gather([left, right]) as cameras:
                for consumer, frame in cameras:
                    ...

        A frame costs the same however many idle streams are gathered beside its own. Until the
        gathering is closed, frames of these consumers are had from it alone.

        Raises:
            ValueError: a consumer is of another pool, named twice, or gathered already.
            ConcurrentUse: another thread is using one of them.
            ForkedProcess, PoolClosed: one of them cannot be used here, or any more.
        """
        gathered = list(consumers)
        if len(set(gathered)) != len(gathered):
            raise ValueError("a consumer is named twice: gather each once")
        with self._lock:
            strangers = [one for one in gathered if one not in self._attachments]
        for consumer in gathered:
            if consumer.is_closed:
                raise PoolClosed(f"the consumer of stream {consumer.stream_id} was closed")
            if consumer in strangers:
                raise ValueError(
                    f"the consumer of stream {consumer.stream_id} is of another pool: a gathering "
                    "has one connection; make its consumers with the same pool"
                )
            if consumer.is_gathered:
                raise ValueError(
                    f"the consumer of stream {consumer.stream_id} is gathered already: close that "
                    "gathering first"
                )
        return Gathering(self._keeper, gathered)

    def close(self) -> None:
        """Close every producer and consumer, then the connection; idempotent.

        Producers linger (`Producer.close`). In a forked child nothing happens: all of it is the
        parent's.
        """
        with self._lock:
            attachments, self._attachments = self._attachments, []
        for attachment in attachments:
            attachment.close()
        self._keeper.close()

    def _hold(self, attachment: Attachment) -> None:
        """Close it at our end; those that were closed already are let go."""
        with self._lock:
            self._attachments = [held for held in self._attachments if not held.is_closed]
            self._attachments.append(attachment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    config: str | os.PathLike[str] | None = None,
    *,
    aeron_dir: str | None = None,
    on_event: Callable[[PoolEvent], None] | None = None,
) -> Pool:
    """Connect to this host's tensor pool.

    The host is found by `config`, else TENSORPOOL_CONFIG, else the built-in default;
    `aeron_dir`, else the environment (AERON_DIR), overrides the media driver's directory.
    `on_event` is called with everything that happens to a lease or the connection, in order,
    on the keeper's thread and with no lock held: it may read anything, but not wait for a lease,
    and what it raises is logged. One pool does for a process: its one keeper thread serves any
    number of producers and consumers.

    Raises:
        ConfigError: the configuration cannot be used.
        MediaDriverLost: no media driver lives in the directory.
    """
    path = find_config(None if config is None else os.fspath(config), os.environ)
    settings = to_settings(load(path, os.environ).config)
    if aeron_dir is not None:
        settings = replace(settings, aeron_dir=aeron_dir)
    keeper = LeaseKeeper(settings, on_event)
    keeper.start()
    return Pool(keeper)
