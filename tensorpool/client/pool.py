"""The entry to a host: one connection, one keeper, any number of producers and consumers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from tensorpool.client.attachment import Attachment
from tensorpool.client.consumer import Consumer
from tensorpool.client.keeper import LeaseKeeper, PoolEvent
from tensorpool.client.producer import Producer
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
        self.events: deque[PoolEvent] = keeper.events

    def producer(
        self, stream_id: int, *, client_id: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Producer:
        """Attach as the one producer of `stream_id` (0: a new dynamic stream).

        Raises:
            AttachRejected: the driver refuses, e.g. another producer is attached.
            NoDriver: nobody answered within `timeout_s` seconds.
        """
        producer = Producer(self._keeper, stream_id, client_id=client_id, timeout_s=timeout_s)
        self._attachments.append(producer)
        return producer

    def consumer(
        self, stream_id: int, *, client_id: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Consumer:
        """Attach as a consumer of `stream_id`.

        Raises:
            as `producer` does.
        """
        consumer = Consumer(self._keeper, stream_id, client_id=client_id, timeout_s=timeout_s)
        self._attachments.append(consumer)
        return consumer

    def close(self) -> None:
        """Close every producer and consumer, then the connection; idempotent."""
        attachments, self._attachments = self._attachments, []
        for attachment in attachments:
            attachment.close()
        self._keeper.close()

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
    `on_event` is called on the keeper's thread with everything that happens to a lease.

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
