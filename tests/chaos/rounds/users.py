"""Clients that nobody would wish for, each a process of its own; `tests.peers` has good ones."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

import tensorpool
from tensorpool.errors import HostError
from tensorpool.wire.driver import HugepagesPolicy, PublishMode, Role, ShmAttachRequest
from tests.wire_client import WireClient, settings_of

_ATTACH_TIMEOUT_S = 5.0
_FRAMES = 5
_PAUSE_S = 0.2
_LAZY_PERIOD_S = 0.5


def churn(pipe: Connection, config: str, stream_id: int, seed: int) -> None:
    """Attach a producer, publish a little, detach, for ever: an epoch bump each time."""
    rng = random.Random(seed)
    with tensorpool.connect(config) as pool:
        pipe.send(None)
        while not pipe.poll(rng.uniform(0, _PAUSE_S)):
            with (
                suppress(tensorpool.TensorPoolError),
                pool.producer(stream_id, timeout_s=_ATTACH_TIMEOUT_S) as producer,
            ):
                for number in range(_FRAMES):
                    producer.publish(np.full(8, number, np.uint64), timeout_s=1.0)
                producer.close(linger_s=0)


def be_lazy(pipe: Connection, config: str, stream_id: int, client_id: int) -> None:
    """Ask for a lease again and again, keep none alive, map nothing, and never poll."""
    settings = settings_of(config)
    client: WireClient | None = None
    pipe.send(None)
    while not pipe.poll(_LAZY_PERIOD_S):
        try:
            client = client or WireClient(settings, tether=False)
            client.send(
                ShmAttachRequest(
                    time.monotonic_ns(),
                    stream_id,
                    client_id,
                    Role.CONSUMER,
                    publish_mode=PublishMode.EXISTING_OR_CREATE,
                    require_hugepages=HugepagesPolicy.UNSPECIFIED,
                )
            )
        except (HostError, AssertionError):  # no media driver, or a stream that takes nothing
            if client is not None:
                with suppress(HostError):
                    client.close()
            client = None
