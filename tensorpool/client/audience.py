"""A producer's part in the traffic: its consumers, their own streams, QoS and metadata.

Lives on the keeper's thread. What the producer's thread needs of it are snapshots, replaced as a
whole: `side_streams`, `policy` and `progress_outlets`.

Who decides about per-consumer streams: the supervisor, where the configuration has one, and then
its `ConsumerConfig` holds. A producer that comes later has not heard it; consumers repeat their
hello for each epoch with what they were granted, so after a while without a config the hello
counts. Without a supervisor this producer answers hellos itself (Wire §10.1.3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensorpool.aeron.client import MediaDriverLost, Offer, Publication
from tensorpool.client.channels import Channels
from tensorpool.client.lease import ClientLease
from tensorpool.client.metadata import Metadata, announce_message, meta_message
from tensorpool.client.progress import ProgressPolicy, policy_of
from tensorpool.client.talk import cadence_ns
from tensorpool.clock import NS_PER_MS, NS_PER_S
from tensorpool.errors import HostError
from tensorpool.settings import Endpoint, HostSettings
from tensorpool.wire.control import (
    ConsumerConfig,
    ConsumerHello,
    Mode,
    QosConsumer,
    QosProducer,
)

_log = logging.getLogger(__name__)

STALE_CADENCES = 4
"""Wire §5: a consumer is stale 3 to 5 times the QoS interval after its last sign."""
_SWEEP_NS = 250 * NS_PER_MS
_CONFIG_PATIENCE_NS = 500 * NS_PER_MS
_ANNOUNCE_AGAIN_NS = 100 * NS_PER_MS
MAX_LISTENERS = 4096


@dataclass(slots=True, eq=False)
class Listener:
    """One consumer of the stream, as it was heard."""

    consumer_id: int
    heard_ns: int
    hello: ConsumerHello | None = None
    hello_ns: int = 0
    config: ConsumerConfig | None = None
    epoch: int = 0
    last_seq: int = 0


@dataclass(slots=True, eq=False)
class SideStream:
    """A consumer's own stream. `due_ns` belongs to the producer's thread.

    Attributes:
        period_ns: least time between two descriptors, 0: all of them (Wire §5, `max_rate_hz`).
    """

    publication: Publication
    period_ns: int
    due_ns: int = 0
    was_connected: bool = False


type _Key = tuple[int, str]
"""A consumer id, and what its own stream carries: "descriptor" or "control"."""


class Audience:
    """See the module. `position` gives the last seq that was described, -1 before the first."""

    def __init__(self, settings: HostSettings, position: Callable[[], int]) -> None:
        self.side_streams: tuple[SideStream, ...] = ()
        self.policy: ProgressPolicy | None = None
        self.progress_outlets: tuple[Publication, ...] = ()
        self.metadata: Metadata | None = None
        self._settings = settings
        self._position = position
        self._cadence_ns = cadence_ns(settings.policies)
        supervisor = settings.supervisor
        self._stale_ns = (
            STALE_CADENCES * self._cadence_ns
            if supervisor is None
            else max(supervisor.consumer_stale_ns, 3 * self._cadence_ns)
        )
        self._listeners: dict[int, Listener] = {}
        self._sides: dict[_Key, tuple[Endpoint, SideStream]] = {}
        self._shared_control: Publication | None = None
        self._answers: dict[int, ConsumerConfig] = {}
        self._is_changed = False
        self._next_qos_ns = 0
        self._next_metadata_ns = 0
        self._told_metadata_ns = 0
        self._next_sweep_ns = 0

    # -- for the producer's thread --------------------------------------------------------

    def tell(self, metadata: Metadata) -> None:
        """Announce this from now on, beginning at once."""
        self.metadata = metadata
        self._next_metadata_ns = 0

    def has_seen(self, epoch: int, seq: int) -> bool:
        """Whether every consumer that is known reported `seq` of `epoch`, or a later one."""
        return all(
            (listener.epoch, listener.last_seq) >= (epoch, seq)
            for listener in list(self._listeners.values())
        )

    @property
    def consumer_ids(self) -> tuple[int, ...]:
        """The consumers that were heard of lately."""
        return tuple(self._listeners)

    # -- Talk -----------------------------------------------------------------------------

    def on_connected(self, channels: Channels) -> None:
        """See `Talk`."""
        channels.listen_to_qos()
        self._sides.clear()
        self.side_streams, self.progress_outlets = (), ()
        self._shared_control = None
        self._is_changed = True

    def on_regions(self, lease: ClientLease) -> None:  # noqa: ARG002 - Talk's signature
        """See `Talk`."""
        self._next_metadata_ns = self._next_qos_ns = 0

    def hear(self, lease: ClientLease, message: Any, now_ns: int) -> None:  # noqa: ARG002
        """See `Talk`."""
        match message:
            case ConsumerHello():
                self._on_hello(message, now_ns)
            case QosConsumer():
                listener = self._listener(message.consumer_id, now_ns)
                if listener is not None:
                    listener.epoch, listener.last_seq = message.epoch, message.last_seq_seen
            case ConsumerConfig():
                listener = self._listener(message.consumer_id, now_ns)
                if listener is not None and listener.config != message:
                    listener.config = message
                    self._is_changed = True

    def tick(self, lease: ClientLease, channels: Channels, now_ns: int) -> int:
        """See `Talk`."""
        if lease.regions is None:
            return 0
        work = 0
        if now_ns >= self._next_qos_ns:
            self._next_qos_ns = now_ns + self._cadence_ns
            # Soft state: if this one is lost, the next one comes in a second.
            channels.qos(
                QosProducer(
                    lease.stream_id, lease.client_id, lease.regions.epoch, max(self._position(), 0)
                )
            )
            work += 1
        if self.metadata is not None and now_ns >= self._next_metadata_ns:
            self._next_metadata_ns = now_ns + self._cadence_ns
            self._told_metadata_ns = now_ns
            epoch = lease.regions.epoch
            channels.metadata(
                announce_message(self.metadata, lease.stream_id, lease.client_id, epoch)
            )
            channels.metadata(meta_message(self.metadata, lease.stream_id, now_ns))
            work += 1
        for consumer_id, answer in list(self._answers.items()):
            if channels.control(answer) is not Offer.BACK_PRESSURED:
                del self._answers[consumer_id]
        if now_ns >= self._next_sweep_ns:
            self._next_sweep_ns = now_ns + _SWEEP_NS
            self._sweep(now_ns)
        if self._is_changed:
            self._is_changed = False
            self._serve(channels, now_ns)
            work += 1
        return work

    def on_closed(self) -> None:
        """See `Talk`."""
        last = self._position()
        self._position = lambda: last  # without the producer: nothing that is closed is a cycle
        for _, side in self._sides.values():
            side.publication.close()
        if self._shared_control is not None:
            self._shared_control.close()
        self._sides.clear()
        self._listeners.clear()
        self.side_streams, self.progress_outlets = (), ()
        self._shared_control = None

    # -- consumers ------------------------------------------------------------------------

    def _listener(self, consumer_id: int, now_ns: int) -> Listener | None:
        listener = self._listeners.get(consumer_id)
        if listener is None:
            if len(self._listeners) >= MAX_LISTENERS:
                return None
            listener = self._listeners[consumer_id] = Listener(consumer_id, now_ns)
        listener.heard_ns = now_ns
        return listener

    def _on_hello(self, hello: ConsumerHello, now_ns: int) -> None:
        listener = self._listener(hello.consumer_id, now_ns)
        if listener is None:
            return
        if listener.hello != hello:
            listener.hello, listener.hello_ns = hello, now_ns
            self._is_changed = True
        # Who comes new must not wait for a whole period to know what it sees.
        self._next_metadata_ns = min(
            self._next_metadata_ns, self._told_metadata_ns + _ANNOUNCE_AGAIN_NS
        )
        if self._settings.supervisor is None:
            self._answers[hello.consumer_id] = listener.config = self._judge(hello)

    def _judge(self, hello: ConsumerHello) -> ConsumerConfig:
        """Our answer where no supervisor gives one: what is asked for, or the shared stream."""
        mode = hello.mode if hello.mode in Mode else Mode.STREAM
        config = ConsumerConfig(hello.stream_id, hello.consumer_id, hello.supports_shm, mode)
        if self._may_serve(hello, "descriptor"):
            config = config._replace(
                descriptor_channel=hello.descriptor_channel,
                descriptor_stream_id=hello.descriptor_stream_id,
            )
        if self._may_serve(hello, "control"):
            config = config._replace(
                control_channel=hello.control_channel, control_stream_id=hello.control_stream_id
            )
        return config

    def _may_serve(self, hello: ConsumerHello, kind: str) -> bool:
        """Whether the request is valid (Wire §10.1.3) and its id is nobody else's."""
        wanted = _endpoint(hello, kind)
        driver = self._settings.driver
        shared = {driver.control, driver.announce, driver.qos, driver.metadata, driver.descriptor}
        shared_ids = {endpoint.stream_id for endpoint in shared}
        return (
            wanted is not None
            and wanted.channel.partition("?")[0] == driver.descriptor.channel.partition("?")[0]
            and wanted.stream_id not in shared_ids
            and all(
                other.consumer_id == hello.consumer_id
                or wanted
                not in (self._wanted(other, "descriptor", 0), self._wanted(other, "control", 0))
                for other in self._listeners.values()
            )
        )

    def _wanted(self, listener: Listener, kind: str, now_ns: int) -> Endpoint | None:
        if listener.config is not None:
            return _endpoint(listener.config, kind)
        if listener.hello is not None and now_ns - listener.hello_ns >= _CONFIG_PATIENCE_NS:
            return _endpoint(listener.hello, kind)
        return None

    def _sweep(self, now_ns: int) -> None:
        """Forget who is silent or left, and look again at who waits for a config."""
        for listener in list(self._listeners.values()):
            if now_ns - listener.heard_ns > self._stale_ns or self._has_left(listener):
                del self._listeners[listener.consumer_id]
                self._is_changed = True
            elif listener.config is None and listener.hello is not None:
                self._is_changed = True

    def _has_left(self, listener: Listener) -> bool:
        for kind in ("descriptor", "control"):
            served = self._sides.get((listener.consumer_id, kind))
            if served is None:
                continue
            side = served[1]
            is_connected = side.publication.is_connected
            if side.was_connected and not is_connected:
                return True
            side.was_connected = is_connected
        return False

    # -- their streams --------------------------------------------------------------------

    def _serve(self, channels: Channels, now_ns: int) -> None:
        """Open and close per-consumer streams as they are wanted now; hand out snapshots."""
        wanted: dict[_Key, Endpoint] = {}
        for listener in self._listeners.values():
            for kind in ("descriptor", "control"):
                endpoint = self._wanted(listener, kind, now_ns)
                if endpoint is not None and endpoint not in wanted.values():
                    wanted[listener.consumer_id, kind] = endpoint
        former, self._sides = self._sides, {}
        for key, endpoint in wanted.items():
            served = former.pop(key, None)
            if served is not None and served[0] != endpoint:
                former[key] = served
                served = None
            if served is None:
                publication = self._open(channels, endpoint)
                if publication is None:
                    continue
                served = endpoint, SideStream(publication, 0)
            self._sides[key] = served
            hello = self._listeners[key[0]].hello
            rate_hz = 0 if hello is None else hello.max_rate_hz
            self._sides[key][1].period_ns = NS_PER_S // rate_hz if rate_hz else 0
        self.side_streams = tuple(
            side for (_, kind), (_, side) in self._sides.items() if kind == "descriptor"
        )
        self._serve_progress(channels)
        for _, side in former.values():
            side.publication.close()

    def _serve_progress(self, channels: Channels) -> None:
        hellos = {
            listener.consumer_id: listener.hello
            for listener in self._listeners.values()
            if listener.hello is not None
        }
        policy = policy_of(hellos.values())
        own = {i: side for (i, kind), (_, side) in self._sides.items() if kind == "control"}
        outlets = [side.publication for side in own.values()]
        if any(hello.supports_progress == 1 and i not in own for i, hello in hellos.items()):
            if self._shared_control is None:
                self._shared_control = self._open(channels, self._settings.driver.control)
            if self._shared_control is not None:
                outlets.append(self._shared_control)
        self.progress_outlets = tuple(outlets)
        self.policy = policy

    @staticmethod
    def _open(channels: Channels, endpoint: Endpoint) -> Publication | None:
        try:
            return channels.publication_for(endpoint)
        except MediaDriverLost:
            raise
        except HostError as error:
            # The consumer stays on the shared stream, since nothing comes on its own.
            _log.warning("per-consumer stream refused", extra={"why": str(error)})
            return None


def _endpoint(message: ConsumerHello | ConsumerConfig, kind: str) -> Endpoint | None:
    """The per-consumer stream that a hello asks for or a config grants; a half one is none."""
    if kind == "descriptor":
        channel, stream_id = message.descriptor_channel, message.descriptor_stream_id
    else:
        channel, stream_id = message.control_channel, message.control_stream_id
    return Endpoint(channel, stream_id) if channel and stream_id else None
