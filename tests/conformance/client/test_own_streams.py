"""Streams of a consumer's own, progress, fallback, resynchronisation (Wire §5, §10.1, §10.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.settings import Endpoint
from tensorpool.wire.control import (
    ConsumerConfig,
    ConsumerHello,
    FrameProgress,
    FrameProgressState,
    Mode,
    ProgressUnit,
)
from tensorpool.wire.driver import Role
from tests.conformance.client.test_attach import await_mapped
from tests.scripted_driver import PAYLOAD, STREAM, ScriptedDriver
from tests.support import wait_until

type Happened = Callable[[str], list[str]]
IPC = "aeron:ipc?term-length=64k"
OWN = Endpoint(IPC, 31050)
OWN_CONTROL = Endpoint(IPC, 32050)


def grant(driver: ScriptedDriver, view: tensorpool.Consumer, **fields: Any) -> None:
    driver.send(ConsumerConfig(STREAM, view.client_id, 1, Mode.STREAM)._replace(**fields))


def give_own_stream(driver: ScriptedDriver, view: tensorpool.Consumer) -> None:
    grant(driver, view, descriptor_channel=OWN.channel, descriptor_stream_id=OWN.stream_id)


def next_frame(view: tensorpool.Consumer) -> tensorpool.Frame:
    frame = wait_until(lambda: view.next(0.05), 10, "a frame")
    assert frame is not None
    return frame


@pytest.mark.clause("Wire §5-2", "Wire §10.1.2-2")
def test_an_assigned_stream_takes_the_place_of_the_shared_one(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.consumer(STREAM, own_stream=True) as view:
        await_mapped(view, driver)
        for hello in driver.await_count(ConsumerHello, 1):
            assert hello.consumer_id == view.client_id
            assert (hello.descriptor_channel == "") == (hello.descriptor_stream_id == 0)
            assert (hello.control_channel == "") == (hello.control_stream_id == 0)
        assert driver.of(ConsumerHello)[0].descriptor_stream_id != 0
        give_own_stream(driver, view)
        driver.regions.write(0)

        def comes_on_its_own() -> bool:
            driver.describe(0, OWN)
            view.poll(lambda _: None)
            return view.has_own_stream

        wait_until(comes_on_its_own, 10, "the change to its own stream")
        driver.regions.write(1)
        driver.regions.write(2)
        driver.describe(1)
        driver.describe(2, OWN)
        assert next_frame(view).seq == 2, "what is on the shared stream is no longer for it"


@pytest.mark.clause("Wire §10.1.3-5", "Wire §10.1.3-2")
@pytest.mark.parametrize(
    "fields", [{}, {"descriptor_channel": IPC}, {"descriptor_stream_id": 31050}], ids=str
)
def test_a_declined_consumer_stays_on_the_shared_stream(
    driver: ScriptedDriver, pool: tensorpool.Pool, fields: dict[str, Any]
) -> None:
    with pool.consumer(STREAM, own_stream=True) as view:
        await_mapped(view, driver)
        grant(driver, view, **fields)
        for seq in range(3):
            driver.regions.write(seq)
            driver.describe(seq)
            assert next_frame(view).seq == seq
        assert not view.has_own_stream


@pytest.mark.clause("Wire §10.1.3-1")
@pytest.mark.parametrize("uri", ["aeron:udp?endpoint=10.0.0.1:4000", "bridge://x", "odd:x", ""])
def test_a_fallback_that_this_client_has_not_is_told_with_its_uri(
    driver: ScriptedDriver, pool: tensorpool.Pool, uri: str
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        grant(driver, view, use_shm=0, payload_fallback_uri=uri)

        def denial() -> list[str]:
            try:
                view.poll(lambda _: None)
            except tensorpool.SharedMemoryDenied as error:
                return [error.payload_fallback_uri]
            return []

        assert wait_until(denial, 10, "the denial") == [uri]


@pytest.mark.clause("Wire §5-3")
def test_a_producer_closes_the_stream_of_a_consumer_that_is_silent(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.producer(STREAM) as camera:
        ear = driver.subscription(OWN)
        driver.send(
            ConsumerHello(
                STREAM,
                9,
                1,
                0,
                Mode.STREAM,
                0,
                1,
                descriptor_channel=OWN.channel,
                descriptor_stream_id=OWN.stream_id,
            )
        )
        answer = driver.await_count(ConsumerConfig, 1)[0]
        assert (answer.consumer_id, answer.descriptor_channel) == (9, OWN.channel)
        assert answer.descriptor_stream_id == OWN.stream_id
        found: list[Any] = []

        def is_served() -> bool:
            camera.publish(np.zeros(4, np.uint8))
            ear.poll(lambda buffer, _: found.append(wire.decode(buffer)), 100)
            return bool(found)

        wait_until(is_served, 10, "descriptors of its own")
        wait_until(lambda: not ear.is_connected, 20, "the stream to be closed")


@pytest.mark.clause("Wire §5-9", "Wire §10.2.2-1", "Wire §5-10")
def test_progress_and_nothing_else_comes_on_a_control_stream_of_its_own(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.producer(STREAM) as camera:
        ear = driver.subscription(OWN_CONTROL)
        driver.send(
            ConsumerHello(
                STREAM,
                9,
                1,
                1,
                Mode.STREAM,
                0,
                1,
                0,
                0,
                0,
                control_channel=OWN_CONTROL.channel,
                control_stream_id=OWN_CONTROL.stream_id,
            )
        )
        driver.await_count(ConsumerConfig, 1)
        wait_until(lambda: camera._audience.policy, 10, "the consumer's wish")
        wait_until(lambda: ear.is_connected, 10, "the stream")
        found: list[FrameProgress] = []
        size, step = 4096, 256
        for _ in range(3):
            with camera.claim((size,), np.uint8) as frame:
                seq = frame.seq
                for filled in range(0, size + 1, step):
                    frame.progress(filled)
                with pytest.raises(ValueError, match="bytes filled"):
                    frame.progress(size + 1)

        def hears_all() -> bool:
            ear.poll(lambda buffer, _: found.append(wire.decode(buffer)), 100)
            return bool(found) and (found[-1].seq, found[-1].state) == (seq, 3)

        wait_until(hears_all, 10, lambda: f"the last COMPLETE: {found}")
    assert {type(message) for message in found} == {FrameProgress}
    for seq in range(3):
        told = [message for message in found if message.seq == seq]
        states = [message.state for message in told]
        filled_bytes = [message.payload_bytes_filled for message in told]
        assert states[0] == FrameProgressState.STARTED
        assert states[-1] == FrameProgressState.COMPLETE
        assert states == sorted(states)
        assert filled_bytes == sorted(filled_bytes)
        assert filled_bytes[-1] == size
        assert {message.epoch for message in told} == {driver.regions.epoch}


@pytest.mark.clause("Wire §5-7", "Wire §5-8", "Wire §10.2.2-2")
def test_progress_is_heard_on_its_own_control_stream_and_leases_on_the_shared_one(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.consumer(STREAM, own_stream=True, progress=True) as view:
        await_mapped(view, driver)
        hello = driver.await_count(ConsumerHello, 1)[0]
        assert hello.supports_progress == 1
        assert hello.control_stream_id != 0
        grant(
            driver,
            view,
            control_channel=OWN_CONTROL.channel,
            control_stream_id=OWN_CONTROL.stream_id,
        )
        rows = {"progress_unit": ProgressUnit.ROWS, "progress_stride_bytes": 4}
        driver.regions.write(0, seq_commit=0, tensor=rows)  # in progress
        heard: list[tuple[int, bytes]] = []

        def tell(filled: int, state: FrameProgressState = FrameProgressState.PROGRESS) -> None:
            message = FrameProgress(STREAM, driver.regions.epoch, 0, filled, state)
            driver.send(message, OWN_CONTROL)

        def hears(filled: int) -> bool:
            view.poll(lambda _: None)
            view.poll_progress(lambda p: heard.append((p.nbytes_filled, p.array.tobytes())))
            return any(nbytes == filled for nbytes, _ in heard)

        def is_told_of_the_first_row() -> bool:
            tell(4)
            return hears(4)

        wait_until(is_told_of_the_first_row, 10, "progress on its own stream")
        assert heard[0][1] == PAYLOAD[:4], "one whole row"
        tell(3)  # falls: dropped
        tell(8)
        tell(13)  # more than the frame: dropped
        wait_until(lambda: hears(8), 10, "the next row")
        assert {nbytes for nbytes, _ in heard} == {4, 8}
        driver.revoke(view.lease_id, Role.CONSUMER)
        wait_until(lambda: happened("lease_revoked"), 10, "a revocation on the shared stream")


@pytest.mark.clause("Wire §15.4-2", "Wire §15.4-1")
def test_too_many_frames_behind_is_a_new_start_at_the_latest(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    with pool.consumer(STREAM, max_outstanding_seq_gap=3) as view:
        await_mapped(view, driver)
        driver.regions.write(0)
        driver.describe(0)
        assert next_frame(view).seq == 0
        driver.regions.write(20)
        for seq in range(1, 21):
            driver.describe(seq)
        seen: list[int] = []

        def is_at_the_latest() -> bool:
            view.poll(lambda frame: seen.append(frame.seq))
            return seen[-1:] == [20]

        wait_until(is_at_the_latest, 10, "the latest frame")
        assert view.resyncs >= 1
        assert view.drops_gap + view.drops_late == 19 - (len(seen) - 1)
