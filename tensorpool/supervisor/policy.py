"""What a hello asks for, and what the configuration says to it. Pure: no state, no time.

Whether an id is left is not known here: `service.py` asks the allocator with the result.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tensorpool.settings import PerConsumerStreams, SupervisorSettings
from tensorpool.wire.control import ConsumerHello, Mode

_TRUE = 1
"""The schema's Bool; every other value than TRUE counts as FALSE, the safe side."""


class Kind(enum.Enum):
    """What a per-consumer stream carries (Wire §5)."""

    DESCRIPTOR = "descriptor"
    CONTROL = "control"


class Decline(enum.Enum):
    """Why a per-consumer stream is declined: empty channel and id 0 (Wire §10.1.3)."""

    HALF_REQUEST = "half_request"
    """A channel without an id, or an id without a channel."""
    DISABLED = "disabled"
    """`per_consumer_enabled = false`."""
    NO_RANGE = "no_range"
    """No ids are configured for this kind (Driver §11)."""
    CHANNEL = "channel"
    """A channel of another medium than ours: what we would assign, it could not reach."""
    EXHAUSTED = "exhausted"
    """Every id of the range is taken."""
    CAPACITY = "capacity"
    """More consumers than `consumer_capacity`: one that is not tracked is given nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request for a per-consumer stream; `preferred_id` is never 0."""

    preferred_id: int


def offered(settings: SupervisorSettings, kind: Kind) -> PerConsumerStreams:
    """Where streams of this kind are allocated from."""
    if kind is Kind.DESCRIPTOR:
        return settings.per_consumer_descriptor
    return settings.per_consumer_control


def requested(
    hello: ConsumerHello, kind: Kind, settings: SupervisorSettings
) -> Request | Decline | None:
    """The request for a stream of this kind, why it is declined, or None if there is none.

    Wire §10.1.2 and §10.1.3 overrule Driver §11 on an id of 0: it does not mean "any id",
    it makes the request invalid.
    """
    if kind is Kind.DESCRIPTOR:
        channel, stream_id = hello.descriptor_channel, hello.descriptor_stream_id
    else:
        channel, stream_id = hello.control_channel, hello.control_stream_id
    if not channel and not stream_id:
        return None
    if not channel or not stream_id:
        return Decline.HALF_REQUEST
    if not settings.per_consumer_enabled:
        return Decline.DISABLED
    streams = offered(settings, kind)
    if streams.ids is None:
        return Decline.NO_RANGE
    if _medium(channel) != _medium(streams.channel):
        return Decline.CHANNEL
    return Request(stream_id)


def uses_shm(hello: ConsumerHello, settings: SupervisorSettings) -> bool:
    """Whether the consumer shall read shared memory."""
    return hello.supports_shm == _TRUE and not settings.force_no_shm


def mode_of(hello: ConsumerHello, settings: SupervisorSettings) -> Mode:
    """The consumer's mode: forced, else as asked, STREAM where it asks for an unknown one."""
    if settings.force_mode:
        return Mode(settings.force_mode)
    return Mode(hello.mode) if is_known_mode(hello.mode) else Mode.STREAM


def is_known_mode(mode: int) -> bool:
    """Whether the schema knows this mode (Wire §11)."""
    return mode in Mode


def fallback_uri(hello: ConsumerHello, settings: SupervisorSettings) -> str:
    """Where a consumer without shared memory gets its payload (Wire §10.1.3)."""
    return "" if uses_shm(hello, settings) else settings.payload_fallback_uri


def _medium(channel: str) -> str:
    return channel.partition("?")[0]
