"""What producers and consumers say to each other: metadata, QoS, progress, streams of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tensorpool import FrameProgressState, wire
from tensorpool.aeron.client import AeronClient
from tensorpool.wire.control import FrameProgress, Mode, QosConsumer, QosProducer
from tests.integration.host import STREAM, RunningHost, Tables, running_host
from tests.support import wait_until


class Listener:
    """Everything said on one endpoint."""

    def __init__(self, client: AeronClient, endpoint: object) -> None:
        self.heard: list[object] = []
        self._subscription = client.subscription(endpoint)  # type: ignore[arg-type]

    def poll(self) -> list[object]:
        self._subscription.poll(lambda buffer, _: self.heard.append(wire.decode(buffer)), 64)
        return self.heard


def test_metadata_reaches_frames(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        camera.publish([1])
        frame = view.next(10)
        assert frame is not None
        assert frame.metadata is None
        told = camera.metadata(
            name="cam1",
            summary="a camera",
            attributes={"serial": "ABC", "roi": [1, 2], "blob": b"\x00\x01"},
        )
        wait_until(
            lambda: view.metadata is not None and view.metadata.attributes, 10, "the metadata"
        )
        camera.publish([2])
        frame = view.next(10)
        assert frame is not None
        assert frame.meta_version == told.version == 1
        assert frame.metadata == told
        assert (told["serial"], told["roi"], told["blob"]) == ("ABC", [1, 2], b"\x00\x01")
        camera.metadata(name="cam1", attributes={"serial": "DEF"})
        wait_until(lambda: view.metadata and view.metadata.version == 2, 10, "the second version")
        assert frame.metadata == told


def test_a_later_consumer_hears_the_metadata_soon(pool: tensorpool.Pool) -> None:
    with pool.producer(STREAM) as camera:
        told = camera.metadata(name="cam1", attributes={"serial": "ABC"})
        with pool.consumer(STREAM) as view:
            wait_until(lambda: view.metadata == told, 10, "the metadata")


def test_a_new_producer_begins_anew(pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view:
        for name in ("first", "second"):
            with pool.producer(STREAM) as camera:
                camera.metadata(name=name)
                wait_until(lambda n=name: view.metadata and view.metadata.name == n, 10, name)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [({"a": object()}, "JSON"), ({"ä": 1}, "ASCII"), ({"a": bytes(70_000)}, "65536 at most")],
)
def test_metadata_that_cannot_be_told(
    pool: tensorpool.Pool, attributes: dict[str, object], told: str
) -> None:
    with pool.producer(STREAM) as camera:
        with pytest.raises(tensorpool.MetadataError, match=told):
            camera.metadata(attributes=attributes)
        assert camera.metadata(name="x").version == 1


@pytest.mark.clause("Wire §15.4-1")
def test_qos_tells_positions_and_drops(pool: tensorpool.Pool, calm_host: RunningHost) -> None:
    settings = calm_host.settings
    with (
        AeronClient(settings.aeron_dir, "test") as client,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        listener = Listener(client, settings.driver.qos)
        for value in range(20):
            camera.publish(np.full(4, value, np.uint8))
        wait_until(lambda: view.next(0) is None and view.received == 8, 10, "the frames")

        def has_told() -> bool:
            heard = listener.poll()
            return any(
                isinstance(m, QosConsumer)
                and (m.consumer_id, m.epoch, m.last_seq_seen, m.drops_gap, m.drops_late)
                == (view.client_id, camera.epoch, 19, 0, 12)
                for m in heard
            ) and any(
                isinstance(m, QosProducer)
                and (m.producer_id, m.epoch, m.current_seq) == (camera.client_id, camera.epoch, 19)
                for m in heard
            )

        wait_until(has_told, 10, "QoS of both sides")


@pytest.mark.clause("Wire §10.2.2-1")
def test_progress_of_a_claim(pool: tensorpool.Pool) -> None:
    hints = tensorpool.ProgressHints(interval_us=100, bytes_delta=4096)
    with (
        pool.consumer(STREAM, progress=hints) as view,
        pool.producer(STREAM) as camera,
    ):
        wait_until(lambda: camera._audience.policy, 10, "the consumer's wish")
        view.poll_progress(lambda _: None)  # from now on it listens
        heard: list[tensorpool.PartialFrame] = []

        def listen() -> int:
            return view.poll_progress(heard.append)

        with camera.claim((8, 4096), np.uint8) as frame:
            wait_until(
                lambda: listen() and heard[-1].state is FrameProgressState.STARTED, 10, "start"
            )
            for row in range(8):
                frame.array[row] = row
                filled = (row + 1) * 4096

                def is_told(filled: int = filled) -> bool:
                    frame.progress(filled)
                    return bool(listen()) and heard[-1].nbytes_filled == filled

                wait_until(is_told, 10, f"row {row}")
                assert heard[-1].array.shape == (row + 1, 4096)
                assert heard[-1].array[row, 0] == row
            with pytest.raises(ValueError, match="were told already"):
                frame.progress(1)
        wait_until(lambda: listen() and heard[-1].state is FrameProgressState.COMPLETE, 10, "end")
        received = view.next(10)
        assert received is not None
        assert received.seq == heard[-1].seq
        fills = [partial.nbytes_filled for partial in heard]
        assert fills == sorted(fills)


def test_no_progress_is_told_to_nobody(pool: tensorpool.Pool, calm_host: RunningHost) -> None:
    settings = calm_host.settings
    with (
        AeronClient(settings.aeron_dir, "test") as client,
        pool.consumer(STREAM) as view,
        pool.producer(STREAM) as camera,
    ):
        listener = Listener(client, settings.driver.control)
        with camera.claim(1 << 20, np.uint8) as frame:
            for filled in range(0, 1 << 20, 1 << 16):
                frame.progress(filled)
        assert view.next(10) is not None
        assert not any(isinstance(m, FrameProgress) for m in listener.poll())


@pytest.mark.clause("Wire §5-2")
def test_a_stream_of_ones_own(pool: tensorpool.Pool) -> None:
    with (
        pool.producer(STREAM) as camera,
        pool.consumer(STREAM) as shared,
        pool.consumer(STREAM, own_stream=True) as own,
    ):
        published = 0

        def another() -> bool:
            nonlocal published
            camera.publish(np.full(4, published, np.uint8))
            published += 1
            for view in (shared, own):
                while view.next(0) is not None:
                    continue
            return own.has_own_stream

        wait_until(another, 20, "the own stream")
        assert not shared.has_own_stream
        for _ in range(5):
            camera.publish([1])
            assert [view.next(10) is not None for view in (shared, own)] == [True, True]
        published += 5
        first = own.received + own.drops_gap + own.drops_late
        assert first <= published
        assert own.drops_gap == own.drops_late == 0
        assert len(camera._audience.side_streams) == 1
        own.close()
        wait_until(lambda: not camera._audience.side_streams, 20, "its end")


@pytest.mark.clause("Wire §5-2")
def test_an_own_stream_outlives_its_producer(pool: tensorpool.Pool) -> None:
    """The next producer never heard the grant: it learns it from the consumer's hello."""
    with pool.consumer(STREAM, own_stream=True) as own:
        for _ in range(2):
            with pool.producer(STREAM) as camera:

                def another(camera: tensorpool.Producer = camera) -> bool:
                    camera.publish([1])
                    return (
                        own.next(0) is not None
                        and own.has_own_stream
                        and bool(camera._audience.side_streams)
                    )

                wait_until(another, 20, "frames on the own stream")
                camera.publish([1])
                wait_until(
                    lambda c=camera: own.next(0) is None and own._last_seq == c.next_seq - 1,  # type: ignore[misc]
                    10,
                    "all",
                )


@pytest.mark.clause("Wire §5-11")
def test_the_producer_keeps_to_the_rate_on_an_own_stream(pool: tensorpool.Pool) -> None:
    with pool.producer(STREAM) as camera, pool.consumer(STREAM, max_rate_hz=5) as view:
        assert view.mode is Mode.RATE_LIMITED

        def another() -> bool:
            camera.publish([1])
            view.next(0)
            return view.has_own_stream

        wait_until(another, 20, "the own stream")
        before = view.received
        for _ in range(50):
            camera.publish([1])
        wait_until(lambda: camera.publish([1]) and view.next(0) is not None, 10, "one more")
        assert view.received - before < 50
        assert view.skipped > 0
        assert view.drops_gap == 0


@pytest.mark.clause("Wire §5-1")
def test_without_a_supervisor_the_producer_answers(tmp_shm: Path) -> None:
    with (
        running_host(tmp_shm, {"supervisor": None}) as host,
        tensorpool.connect(host.config) as pool,
        pool.producer(STREAM) as camera,
        pool.consumer(STREAM, own_stream=True) as own,
    ):

        def another() -> bool:
            camera.publish([1])
            own.next(0)
            return own.has_own_stream

        wait_until(another, 20, "the own stream")


DENYING: Tables = {
    "supervisor": {"force_no_shm": True, "payload_fallback_uri": "aeron:udp?endpoint=localhost:1"}
}


@pytest.mark.clause("Wire §10.1.3-1")
def test_a_denied_consumer_is_told_where_to_go(tmp_shm: Path) -> None:
    with (
        running_host(tmp_shm, DENYING) as host,
        tensorpool.connect(host.config) as pool,
        pool.consumer(STREAM) as view,
    ):
        denials: list[tensorpool.SharedMemoryDenied] = []

        def is_denied() -> bool:
            try:
                view.next(0)
            except tensorpool.SharedMemoryDenied as error:
                denials.append(error)
            return bool(denials)

        wait_until(is_denied, 10, "the supervisor's word")
        assert denials[0].payload_fallback_uri == "aeron:udp?endpoint=localhost:1"
        assert view.payload_fallback_uri == "aeron:udp?endpoint=localhost:1"
        with pytest.raises(tensorpool.SharedMemoryDenied, match="udp"):
            view.next(1)
