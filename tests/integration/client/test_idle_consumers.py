"""Consumers that nobody asks for frames: they are in nobody's way, and lose nothing but time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sized
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

import tensorpool
from tensorpool.client import consumer
from tests.integration.host import STREAM, RunningHost
from tests.support import wait_until

OTHER_STREAM = 20001
TIMES = 12
FRAMES, KEPT = 200, 20


def publications(host: RunningHost) -> int:
    return len(os.listdir(os.path.join(host.settings.aeron_dir, "publications")))


def has_kept(waiting: Sized) -> bool:
    return len(waiting) == KEPT


def come_and_go(pool: tensorpool.Pool, stream_id: int) -> None:
    for _ in range(TIMES):
        with pool.producer(stream_id) as camera:
            camera.publish(np.zeros(4, np.uint8))


@pytest.mark.parametrize("stream_id", [STREAM, OTHER_STREAM])
@pytest.mark.parametrize("is_gathered", [False, True])
def test_publications_end_though_nobody_reads_them(
    host: RunningHost, stream_id: int, is_gathered: bool
) -> None:
    with (
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as idle,
        ExitStack() as stack,
    ):
        if is_gathered:
            stack.enter_context(pool.gather([idle]))
        before = publications(host)
        come_and_go(pool, stream_id)
        wait_until(lambda: publications(host) <= before, 40, "the end of what was closed")


def test_what_an_idle_consumer_has_missed_is_counted(
    pool: tensorpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_KEPT_UNREAD", KEPT)
    with pool.consumer(STREAM) as idle, pool.producer(STREAM) as camera:
        wait_until(lambda: camera.is_connected, 20, "the consumer")
        for value in range(FRAMES):
            camera.publish(np.full(4, value, np.uint8))
        # Nobody has asked it for a frame yet, so it knows of no epoch that these could be late in.
        wait_until(lambda: idle.drops_epoch > 0, 20, "what is too much to be dropped")
        assert len(idle._inbox.waiting) == KEPT
        frame = idle.latest()
        assert frame is not None
        assert frame.array[0] == FRAMES - 1
        for value in range(FRAMES):
            camera.publish(np.full(4, value, np.uint8))
        wait_until(lambda: idle.drops_late > 0, 20, "what is too much to be dropped")
        frame = idle.latest()
        assert frame is not None
        counts = idle.received + idle.skipped + idle.drops_late + idle.drops_gap + idle.drops_epoch
        assert (counts, idle.drops_invalid) == (2 * FRAMES, 0)


def test_what_an_idle_gathering_has_missed_is_no_burden(
    pool: tensorpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_KEPT_UNREAD", KEPT)
    with ExitStack() as stack:
        views = [stack.enter_context(pool.consumer(STREAM)) for _ in range(3)]
        camera = stack.enter_context(pool.producer(STREAM))
        stack.enter_context(pool.gather(views))
        wait_until(lambda: camera.is_connected, 20, "the gathering")
        for value in range(FRAMES):
            camera.publish(np.full(4, value, np.uint8))
        for view in views:
            inbox = view._inbox
            wait_until(partial(has_kept, inbox.waiting), 20, "the rest to be dropped")


def test_nobody_is_refused_because_of_the_keeper(pool: tensorpool.Pool) -> None:
    """It looks in once a second; a user who comes at that very moment waits."""
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        camera.publish(np.zeros(4, np.uint8))
        assert view.next(20) is not None
        wait_until(view._user.begin_tending, 20, "the keeper to be out")
        taken: list[tensorpool.Frame | None] = []
        thread = threading.Thread(target=lambda: taken.append(view.next(20)))
        thread.start()
        camera.publish(np.ones(4, np.uint8))
        thread.join(0.1)
        assert thread.is_alive()
        view._user.end_tending()
        thread.join(20)
        assert [frame is not None for frame in taken] == [True]
