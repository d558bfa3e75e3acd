"""A consumer's part in the traffic: its hello and what it is granted, its QoS, metadata heard.

Lives on the keeper's thread; the consumer's thread reads the attributes, each replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tensorpool.aeron.client import Offer, Subscription
from tensorpool.client.channels import Channels
from tensorpool.client.lease import ClientLease
from tensorpool.client.metadata import MetadataBook
from tensorpool.client.progress import ProgressHints
from tensorpool.client.talk import cadence_ns
from tensorpool.clock import NS_PER_MS, NS_PER_S
from tensorpool.settings import Endpoint, HostSettings, PerConsumerStreams
from tensorpool.shm.layout import LAYOUT_VERSION
from tensorpool.wire.control import (
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    Mode,
    QosConsumer,
)

_QUIET_NS = 20 * NS_PER_MS
_REPORT_AGAIN_NS = 200 * NS_PER_MS
_LONELY_NS = NS_PER_S
"""An own stream without a publisher for this long is given up for the shared one."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a consumer asks for.

    Attributes:
        max_rate_hz: frames a second at most, 0 for all of them (mode STREAM).
        own_stream: whether to ask for a descriptor stream of its own.
        progress: how often to hear of frames being written, None for never.
    """

    max_rate_hz: int = 0
    own_stream: bool = False
    progress: ProgressHints | None = None

    @property
    def mode(self) -> Mode:
        """The consumer mode asked for (Wire §11)."""
        return Mode.RATE_LIMITED if self.max_rate_hz else Mode.STREAM


class Position(NamedTuple):
    """How far a consumer is: the last frame it saw, its drops. Epoch 0: it saw none yet."""

    epoch: int
    last_seq: int
    drops_gap: int
    drops_late: int


class Presence:
    """See the module.

    Attributes:
        config: what was granted last, None before the first answer.
        book: the metadata heard.
        own_stream: the descriptor stream to be on; None is the shared one.
        own_control: where this consumer's FrameProgress comes; None is the shared control stream.
        own_subscription: set by the consumer once it listens to its own stream.
    """

    def __init__(
        self,
        settings: HostSettings,
        wishes: Wishes,
        position: Callable[[], Position],
        tend: Callable[[], None],
    ) -> None:
        self.config: ConsumerConfig | None = None
        self.book = MetadataBook()
        self.own_stream: Endpoint | None = None
        self.own_control: Endpoint | None = None
        self.own_subscription: Subscription | None = None
        self._wishes = wishes
        self._position = position
        self._tend = tend
        self._next_tending_ns = 0
        self._cadence_ns = cadence_ns(settings.policies)
        supervisor = settings.supervisor
        driver = settings.driver
        if supervisor is not None:
            self._descriptor, self._control = (
                supervisor.per_consumer_descriptor,
                supervisor.per_consumer_control,
            )
        else:
            self._descriptor = PerConsumerStreams(
                driver.descriptor.channel, driver.descriptor_stream_id_range
            )
            self._control = PerConsumerStreams(
                driver.control.channel, driver.control_stream_id_range
            )
        self._epoch = 0
        self._is_hello_due = False
        self._next_qos_ns = 0
        self._reported = Position(0, 0, 0, 0)
        self._reported_ns = 0
        self._moved = Position(0, 0, 0, 0)
        self._moved_ns = 0
        self._lonely_since_ns = 0

    @property
    def mode(self) -> Mode:
        """The mode that holds: as granted, else as asked for."""
        config = self.config
        return Mode(config.mode) if config is not None else self._wishes.mode

    # -- Talk -----------------------------------------------------------------------------

    def on_connected(self, channels: Channels) -> None:
        """See `Talk`."""
        channels.listen_to_metadata()
        self._forget_own_streams()
        self._is_hello_due = True

    def on_regions(self, lease: ClientLease) -> None:
        """See `Talk`."""
        epoch = lease.regions.epoch if lease.regions is not None else 0
        if epoch != self._epoch:
            self._epoch = epoch
            self.book.clear()
        # A new producer has heard no hello of ours yet (the C client repeats its own as well).
        self._is_hello_due = True
        self._next_qos_ns = 0

    def hear(self, lease: ClientLease, message: Any, now_ns: int) -> None:  # noqa: ARG002
        """See `Talk`."""
        match message:
            case ConsumerConfig():
                if message.consumer_id == lease.client_id:
                    self._on_config(lease, message)
            case DataSourceAnnounce():
                # A former producer's last beacon may come behind the new epoch.
                if message.epoch >= self._epoch:
                    self.book.hear_announce(message)
            case DataSourceMeta():
                self.book.hear_meta(message)

    def tick(self, lease: ClientLease, channels: Channels, now_ns: int) -> int:
        """See `Talk`."""
        if now_ns >= self._next_tending_ns:
            self._next_tending_ns = now_ns + self._cadence_ns
            self._tend()
        if lease.regions is None:
            return 0
        work = 0
        if self._is_hello_due and channels.control(self._hello(lease)) is Offer.SENT:
            self._is_hello_due = False
            work += 1
        position = self._position()
        if position != self._moved:
            self._moved, self._moved_ns = position, now_ns
        # Beside the cadence: who has just caught up says so soon, a closing producer waits for it.
        has_paused = (
            position != self._reported
            and now_ns - self._moved_ns >= _QUIET_NS
            and now_ns - self._reported_ns >= _REPORT_AGAIN_NS
        )
        if now_ns >= self._next_qos_ns or has_paused:
            self._next_qos_ns = now_ns + self._cadence_ns
            self._reported, self._reported_ns = position, now_ns
            channels.qos(QosConsumer(lease.stream_id, lease.client_id, *position, self.mode))
            work += 1
        self._watch_own_stream(lease, now_ns)
        return work

    def on_closed(self) -> None:
        """See `Talk`."""
        last = self._position()
        # Without the consumer: nothing that is closed is a cycle.
        self._position, self._tend = lambda: last, _leave_alone

    # -- hello and config -----------------------------------------------------------------

    def _hello(self, lease: ClientLease) -> ConsumerHello:
        """What we are and want; ids granted before are asked for again."""
        wishes = self._wishes
        hints = wishes.progress or ProgressHints()
        hello = ConsumerHello(
            lease.stream_id,
            lease.client_id,
            1,
            0 if wishes.progress is None else 1,
            wishes.mode,
            wishes.max_rate_hz,
            LAYOUT_VERSION,
            *hints,
        )
        if wishes.own_stream and (descriptor := _request(self._descriptor, lease, self.own_stream)):
            hello = hello._replace(
                descriptor_channel=descriptor.channel, descriptor_stream_id=descriptor.stream_id
            )
        if (
            wishes.own_stream
            and wishes.progress is not None
            and (control := _request(self._control, lease, self.own_control))
        ):
            hello = hello._replace(
                control_channel=control.channel, control_stream_id=control.stream_id
            )
        return hello

    def _on_config(self, lease: ClientLease, config: ConsumerConfig) -> None:
        if config == self.config or config.mode not in Mode:
            return
        self.config = config
        self.own_stream = _granted(config.descriptor_channel, config.descriptor_stream_id)
        self.own_control = _granted(config.control_channel, config.control_stream_id)
        if self.own_stream is not None or self.own_control is not None:
            # Producers to come learn from it what we were granted.
            self._is_hello_due = True
        lease.bump()

    def _forget_own_streams(self) -> None:
        self.config = None
        self.own_stream = self.own_control = self.own_subscription = None
        self._lonely_since_ns = 0

    def _watch_own_stream(self, lease: ClientLease, now_ns: int) -> None:
        """Go back to the shared stream if nobody publishes on ours any more."""
        own = self.own_subscription
        if own is None or own.is_connected:
            self._lonely_since_ns = 0
        elif self._lonely_since_ns == 0:
            self._lonely_since_ns = now_ns
        elif now_ns - self._lonely_since_ns > _LONELY_NS:
            self._forget_own_streams()
            self._is_hello_due = True
            lease.bump()


def _leave_alone() -> None:
    """In the place of `Consumer._tend` once it is closed."""


def _granted(channel: str, stream_id: int) -> Endpoint | None:
    return Endpoint(channel, stream_id) if channel and stream_id else None


def _request(
    streams: PerConsumerStreams, lease: ClientLease, granted: Endpoint | None
) -> Endpoint | None:
    """The id to ask for: the granted one, else one that few others will ask for."""
    if granted is not None:
        return granted
    if streams.ids is None:
        return None
    return Endpoint(streams.channel, streams.ids.first + lease.client_id % len(streams.ids))
