"""A process that attaches and detaches for weeks keeps nothing of what is over."""

from __future__ import annotations

import gc
import weakref

import numpy as np

import tensorpool
from tests.integration.host import STREAM


def test_a_pool_lets_go_of_what_was_closed(pool: tensorpool.Pool) -> None:
    closed: list[weakref.ref[object]] = []
    for _ in range(3):
        with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
            camera.publish([1, 2, 3])
            assert view.next(10) is not None
            closed += [weakref.ref(view), weakref.ref(camera)]
        del view, camera
    with pool.consumer(STREAM):
        gc.collect()
        assert [reference() for reference in closed] == [None] * len(closed)


def test_what_was_closed_does_not_wait_for_the_collector(pool: tensorpool.Pool) -> None:
    gc.disable()  # a full collection comes once in hundreds of attaches
    try:
        with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
            camera.metadata(name="freed", attributes={"a": 1})
            camera.publish([1, 2, 3])
            assert view.next(10) is not None
        closed = weakref.ref(view), weakref.ref(camera)
        del view, camera
        with pool.consumer(STREAM):
            assert [reference() for reference in closed] == [None, None]
    finally:
        gc.enable()


def test_whoever_is_closed_maps_nothing(pool: tensorpool.Pool) -> None:
    """Its regions may be gone from their directory: a mapping would keep their memory."""
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        with camera.claim(4, np.uint8) as frame:
            frame.array[:] = 7
        camera.publish(np.zeros(4))
        assert view.next(10) is not None
        assert view.next(10) is not None
        mapped = weakref.ref(camera._mapped), weakref.ref(view._mapped)
    del frame
    gc.collect()
    assert [reference() for reference in mapped] == [None, None]


def test_a_pool_still_closes_what_its_user_forgot(pool: tensorpool.Pool) -> None:
    forgotten = pool.consumer(STREAM)
    with pool.consumer(STREAM):
        pass
    pool.close()
    assert forgotten.is_closed


def test_a_producer_of_ever_new_shapes_remembers_some(pool: tensorpool.Pool) -> None:
    with pool.producer(STREAM) as camera:
        for size in range(1, 1000):
            with camera.claim(size, np.uint8):
                pass
            camera.publish(bytes(size))
        assert len(camera._headers) <= 256
        assert len(camera._forms) <= 256
