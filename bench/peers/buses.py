"""The transports that are measured, tensorpool among them."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.peers.transport import AFTER_S, Frame, Receiver, Run, Sender


class TensorPoolSender(Sender):
    """`publish`: one copy."""

    def __init__(self, run: Run) -> None:
        import tensorpool  # noqa: PLC0415 - after the environment was set

        self._pool = tensorpool.connect(run.config)
        self._producer: Any = self._pool.producer(run.stream_id)
        self._shape = (run.nbytes,)

    def send(self, array: Any, *, blocking: bool) -> None:
        """Whoever waits looks often."""
        self._producer.publish(array)

    def close(self) -> None:
        """Detach."""
        self._pool.close()


class TensorPoolClaimSender(TensorPoolSender):
    """`claim`: no copy."""

    def send(self, array: Any, *, blocking: bool) -> None:
        """Write the stamp in place; the rest is what the sensor would have written."""
        with self._producer.claim(self._shape, "u1") as frame:
            frame.array[:16] = array[:16]
            frame.array[-8:] = array[-8:]


class TensorPoolReceiver(Receiver):
    """`next`."""

    def __init__(self, run: Run) -> None:
        import tensorpool  # noqa: PLC0415

        self._pool = tensorpool.connect(run.config)
        self._consumer: Any = self._pool.consumer(run.stream_id)

    def poll(self) -> Frame | None:
        """What is there."""
        frame = self._consumer.next(0)
        return None if frame is None else frame.array

    def wait(self, timeout_s: float) -> Frame | None:
        """With pauses that fit the stream."""
        frame = self._consumer.next(timeout_s)
        return None if frame is None else frame.array

    def close(self) -> None:
        """Detach."""
        self._pool.close()


class Iceoryx2:
    """iceoryx2's publish-subscribe of byte slices, with an event service to wake by."""

    def __init__(self, run: Run) -> None:
        import iceoryx2 as iox2  # noqa: PLC0415

        iox2.set_log_level(iox2.LogLevel.Error)
        self.iox2 = iox2
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        name = iox2.ServiceName.new(run.tag)
        self.service = (
            self.node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_subscribers(run.consumers)
            .max_nodes(run.consumers + 2)
            .subscriber_max_buffer_size(min(run.ring, 16))
            .open_or_create()
        )
        self.event = (
            self.node.service_builder(name)
            .event()
            .max_listeners(run.consumers)
            .max_nodes(run.consumers + 2)
            .open_or_create()
        )


class Iceoryx2Sender(Sender):
    """By slices and memory views, as its examples do."""

    def __init__(self, run: Run) -> None:
        self._bus = Iceoryx2(run)
        self._nbytes = run.nbytes
        self._publisher = (
            self._bus.service.publisher_builder().initial_max_slice_len(run.nbytes).create()
        )
        self._notifier = self._bus.event.notifier_builder().create()

    def send(self, array: Any, *, blocking: bool) -> None:
        """Loan, fill, send, and notify whoever waits."""
        sample = self._publisher.loan_slice_uninit(self._nbytes)
        self._fill(sample, array)
        sample.assume_init().send()
        if blocking:
            self._notifier.notify()

    def _fill(self, sample: Any, array: Any) -> None:
        sample.payload().as_memory_view().cast("B")[:] = array.data


class Iceoryx2RawSender(Iceoryx2Sender):
    """By raw pointers: the fastest that its Python binding allows."""

    def _fill(self, sample: Any, array: Any) -> None:
        ctypes.memmove(sample.payload_ptr, array.ctypes.data, self._nbytes)


class Iceoryx2LoanSender(Iceoryx2Sender):
    """Without a copy: the stamp is written in place."""

    def _fill(self, sample: Any, array: Any) -> None:
        pointer, source = sample.payload_ptr, array.ctypes.data
        ctypes.memmove(pointer, source, 16)
        ctypes.memmove(pointer + self._nbytes - 8, source + self._nbytes - 8, 8)


class Iceoryx2Receiver(Receiver):
    """By slices and memory views."""

    def __init__(self, run: Run) -> None:
        self._bus = Iceoryx2(run)
        self._subscriber = self._bus.service.subscriber_builder().create()
        self._listener = self._bus.event.listener_builder().create()
        self._duration = self._bus.iox2.Duration
        self._type = ctypes.c_uint8 * run.nbytes
        self._sample: Any = None

    def poll(self) -> Frame | None:
        """What is there."""
        self._sample = self._subscriber.receive()
        return None if self._sample is None else self._view(self._sample)

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks on the listener."""
        frame = self.poll()
        if frame is None:
            self._listener.timed_wait(self._duration.from_millis(int(timeout_s * 1e3)))
            frame = self.poll()
        return frame

    def _view(self, sample: Any) -> Frame:
        return sample.payload().as_memory_view()


class Iceoryx2RawReceiver(Iceoryx2Receiver):
    """By raw pointers."""

    def _view(self, sample: Any) -> Frame:
        return self._type.from_address(sample.payload_ptr)


class ZenohSender(Sender):
    """zenoh with buffers of its shared-memory provider."""

    def __init__(self, run: Run) -> None:
        self._session = _zenoh_session("listen", run)
        import zenoh  # noqa: PLC0415

        shm = zenoh.shm
        size = max(64 * run.nbytes, 1 << 20)
        self._provider = shm.ShmProvider.default_backend(min(size, 512 << 20))
        self._policy = shm.BlockOn(shm.GarbageCollect())
        self._publisher = self._session.declare_publisher(run.tag)
        self._nbytes = run.nbytes
        while not self._publisher.matching_status.matching:
            time.sleep(0.01)

    def send(self, array: Any, *, blocking: bool) -> None:
        """Allocate, fill (from bytes: all that the binding takes), put."""
        buffer = self._provider.alloc(self._nbytes, self._policy)
        buffer[:] = array.tobytes()
        self._publisher.put(buffer)

    def finish(self) -> None:
        """Wake whoever still waits, once its time is over."""
        time.sleep(2 * AFTER_S)
        self._publisher.put(b"")

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class ZenohReceiver(Receiver):
    """A subscriber with a channel."""

    def __init__(self, run: Run) -> None:
        self._session = _zenoh_session("connect", run)
        import zenoh  # noqa: PLC0415

        self._subscriber = self._session.declare_subscriber(
            run.tag, zenoh.handlers.FifoChannel(256)
        )

    def poll(self) -> Frame | None:
        """What is there."""
        sample = self._subscriber.try_recv()
        return None if sample is None else sample.payload.to_bytes()

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks; the channel has no time-out, so the sender ends with an empty frame."""
        frame: Frame = self._subscriber.recv().payload.to_bytes()
        return frame or None

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def _zenoh_session(how: str, run: Run) -> Any:
    import zenoh  # noqa: PLC0415

    config = zenoh.Config()
    config.insert_json5("transport/shared_memory/enabled", "true")
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("connect/exit_on_failure", "false")
    config.insert_json5(f"{how}/endpoints", json.dumps([run.shared["endpoint"]]))
    return zenoh.open(config)


class ZmqSender(Sender):
    """ZeroMQ PUB over ipc, without copies of its own."""

    def __init__(self, run: Run) -> None:
        import zmq  # noqa: PLC0415

        self._socket: Any = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set_hwm(64)
        self._socket.bind(f"ipc:///tmp/{run.tag}")

    def send(self, array: Any, *, blocking: bool) -> None:
        """Its own copy of the array, since the message is sent after this returns."""
        self._socket.send(array.tobytes(), copy=False)

    def close(self) -> None:
        """Unsent frames are dropped."""
        self._socket.close(linger=0)


class ZmqReceiver(Receiver):
    """ZeroMQ SUB."""

    def __init__(self, run: Run) -> None:
        import zmq  # noqa: PLC0415

        self._zmq = zmq
        self._socket: Any = zmq.Context.instance().socket(zmq.SUB)
        self._socket.set_hwm(64)
        self._socket.subscribe(b"")
        self._socket.connect(f"ipc:///tmp/{run.tag}")
        self._frame: Any = None

    def poll(self) -> Frame | None:
        """What is there."""
        try:
            self._frame = self._socket.recv(self._zmq.NOBLOCK, copy=False)
        except self._zmq.Again:
            return None
        return self._frame.buffer

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks in the kernel."""
        if not self._socket.poll(int(timeout_s * 1e3)):
            return None
        return self.poll()


class CycloneSender(Sender):
    """Cyclone DDS, a sequence of octets."""

    def __init__(self, run: Run) -> None:
        self._topic, self._type, participant = _cyclone(run)
        from cyclonedds.pub import DataWriter  # noqa: PLC0415

        self._writer = DataWriter(participant, self._topic)

    def send(self, array: Any, *, blocking: bool) -> None:
        """Serialised by the binding."""
        self._writer.write(self._type(array.tobytes()))


class CycloneReceiver(Receiver):
    """Cyclone DDS."""

    def __init__(self, run: Run) -> None:
        topic, _, participant = _cyclone(run)
        from cyclonedds.sub import DataReader  # noqa: PLC0415
        from cyclonedds.util import duration  # noqa: PLC0415

        self._duration = duration
        self._reader = DataReader(participant, topic)

    def poll(self) -> Frame | None:
        """What is there."""
        samples = self._reader.take(N=1)
        return bytes(samples[0].data) if samples else None

    def wait(self, timeout_s: float) -> Frame | None:
        """Blocks on a wait set."""
        try:
            sample = self._reader.take_one(timeout=self._duration(seconds=timeout_s))
        except StopIteration:  # how the binding says that time is up
            return None
        return None if sample is None else bytes(sample.data)


def _cyclone(run: Run) -> tuple[Any, Any, Any]:
    from cyclonedds.core import Policy, Qos  # noqa: PLC0415
    from cyclonedds.domain import DomainParticipant  # noqa: PLC0415
    from cyclonedds.topic import Topic  # noqa: PLC0415
    from cyclonedds.util import duration  # noqa: PLC0415

    from bench.peers.cyclone_type import Octets  # noqa: PLC0415

    participant = DomainParticipant()
    qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(16))
    return Topic(participant, run.tag.replace("-", "_"), Octets, qos=qos), Octets, participant


@dataclass(frozen=True)
class Bus:
    """One transport, or one way of using it.

    Attributes:
        sender: the producer's side.
        receiver: a consumer's side.
        is_ours: whether it is tensorpool.
        package: what has to be installed.
        copies: whether it copies the frame on its way (`claim` and loans do not).
        environment: set in its processes.
        largest: frames beyond it are not measured: minutes a frame say nothing.
        least: frames below it are not measured.
        ring: slots, None: the best for the size.
        best_rings: its own best, by frame size, where it is not everybody's.
        can_block: whether a consumer can wait without polling.
        most_hz: what it can keep up with; beyond it, latency would be that of a queue.
    """

    sender: str
    receiver: str
    is_ours: bool = False
    package: str = ""
    copies: bool = True
    environment: tuple[tuple[str, str], ...] = ()
    largest: int = 8 << 20
    least: int = 0
    ring: int | None = None
    best_rings: Mapping[int, int] = field(default_factory=dict)
    can_block: bool = True
    most_hz: float = math.inf


_OURS = "bench.peers.buses:TensorPoolReceiver"
_BEST_RINGS = {1 << 20: 64}
"""A ring larger than the cache is written past it: better than one that only just fits."""
BUSES = {
    "tensorpool": Bus(
        "bench.peers.buses:TensorPoolSender", _OURS, is_ours=True, best_rings=_BEST_RINGS
    ),
    "iceoryx2 raw": Bus(
        "bench.peers.buses:Iceoryx2RawSender",
        "bench.peers.buses:Iceoryx2RawReceiver",
        package="iceoryx2",
    ),
    "bare copy": Bus(
        "bench.peers.ring:BareCopySender", "bench.peers.ring:BareCopyReceiver", can_block=False
    ),
    "tensorpool claim": Bus(
        "bench.peers.buses:TensorPoolClaimSender", _OURS, is_ours=True, copies=False
    ),
    "iceoryx2 loan": Bus(
        "bench.peers.buses:Iceoryx2LoanSender",
        "bench.peers.buses:Iceoryx2RawReceiver",
        package="iceoryx2",
        copies=False,
    ),
    "tensorpool, 8 slots": Bus(
        "bench.peers.buses:TensorPoolSender",
        _OURS,
        is_ours=True,
        least=1 << 20,
        largest=1 << 20,
        ring=8,
    ),
    "tensorpool, pure Python": Bus(
        "bench.peers.buses:TensorPoolSender",
        _OURS,
        is_ours=True,
        environment=(("TENSORPOOL_PURE_PYTHON", "1"),),
    ),
    "iceoryx2 slices": Bus(
        "bench.peers.buses:Iceoryx2Sender",
        "bench.peers.buses:Iceoryx2Receiver",
        package="iceoryx2",
    ),
    "shared_memory + pipe": Bus("bench.peers.ring:PipeSender", "bench.peers.ring:PipeReceiver"),
    "zenoh, shared memory": Bus(
        "bench.peers.buses:ZenohSender",
        "bench.peers.buses:ZenohReceiver",
        package="eclipse-zenoh",
    ),
    "pyzmq": Bus("bench.peers.buses:ZmqSender", "bench.peers.buses:ZmqReceiver", package="pyzmq"),
    "multiprocessing.Queue": Bus("bench.peers.ring:QueueSender", "bench.peers.ring:QueueReceiver"),
    "cyclonedds": Bus(
        "bench.peers.buses:CycloneSender",
        "bench.peers.buses:CycloneReceiver",
        package="cyclonedds",
        largest=1 << 20,
    ),
    "Ray object store": Bus(
        "bench.peers.ray_store:RaySender",
        "bench.peers.ray_store:RayReceiver",
        package="ray",
        most_hz=50.0,
    ),
}
