"""A host's messages, heard from outside and decoded."""

from __future__ import annotations

import enum
import json
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, MediaDriverLost, Subscription
from tensorpool.settings import Endpoint, HostSettings
from tensorpool.wire.control import (
    ClockDomain,
    DataSourceAnnounce,
    DataSourceMeta,
    FrameDescriptor,
    FrameProgress,
    FrameProgressState,
    MetaBlobAnnounce,
    MetaBlobChunk,
    MetaBlobComplete,
    Mode,
    QosConsumer,
    QosProducer,
    ResponseCode,
    ShmPoolAnnounce,
)
from tensorpool.wire.driver import (
    LeaseRevokeReason,
    PublishMode,
    Role,
    ShmDriverShutdownRequest,
    ShmLeaseRevoked,
)

_POLL_LIMIT = 256


class Kind(enum.StrEnum):
    """What a message is about; every endpoint of a host carries one kind, control some more."""

    CONTROL = "control"
    ANNOUNCE = "announce"
    METADATA = "metadata"
    QOS = "qos"
    DESCRIPTOR = "descriptor"


_KIND_OF: dict[type, Kind] = {
    ShmPoolAnnounce: Kind.ANNOUNCE,
    FrameDescriptor: Kind.DESCRIPTOR,
    FrameProgress: Kind.DESCRIPTOR,
    QosConsumer: Kind.QOS,
    QosProducer: Kind.QOS,
    DataSourceAnnounce: Kind.METADATA,
    DataSourceMeta: Kind.METADATA,
    MetaBlobAnnounce: Kind.METADATA,
    MetaBlobChunk: Kind.METADATA,
    MetaBlobComplete: Kind.METADATA,
}
_ENUMS: dict[str, type[enum.IntEnum]] = {
    "role": Role,
    "code": ResponseCode,
    "publish_mode": PublishMode,
    "mode": Mode,
    "announce_clock_domain": ClockDomain,
    "state": FrameProgressState,
}


class Heard(NamedTuple):
    """One message, or what is none.

    Attributes:
        at: wall clock, seconds.
        endpoint_kind: the kind of the endpoint on which it came.
        message: decoded; None if it is malformed.
        why: why it is malformed.
    """

    at: float
    endpoint_kind: Kind
    aeron_stream_id: int
    session_id: int
    message: Any
    why: str | None

    @property
    def kind(self) -> Kind:
        """What it is about; malformed: the kind of its endpoint."""
        if self.message is None:
            return self.endpoint_kind
        return _KIND_OF.get(type(self.message), Kind.CONTROL)

    @property
    def type_name(self) -> str:
        """The message's name in its schema."""
        return "malformed" if self.message is None else type(self.message).__name__

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields by name, fit for JSON; no token is ever among them (Driver §4.13)."""
        if self.message is None:
            return {"why": self.why}
        fields: dict[str, Any] = _plain(self.message)
        if isinstance(self.message, ShmDriverShutdownRequest):
            fields["token"] = f"<{len(self.message.token)} bytes>"
        return fields


class Filter:
    """Which messages are wanted; empty collections want all."""

    def __init__(self, stream_ids: Collection[int], kinds: Collection[Kind]) -> None:
        self._stream_ids = frozenset(stream_ids)
        self._kinds = frozenset(kinds)

    def wants(self, heard: Heard) -> bool:
        """Whether to show it. A message of no stream is shown only where no stream is named."""
        if self._kinds and heard.kind not in self._kinds:
            return False
        if not self._stream_ids:
            return True
        return getattr(heard.message, "stream_id", None) in self._stream_ids

    def wants_endpoint(self, kind: Kind) -> bool:
        """Whether anything wanted may come there: control carries announces and progress too."""
        return not self._kinds or kind in self._kinds or kind is Kind.CONTROL


class Traffic:
    """Subscriptions to a host's endpoints; a context manager.

    They are untethered: a reader that is stopped is dropped, and nobody waits for it.

    Raises:
        MediaDriverLost: no media driver lives in the host's Aeron directory.
    """

    def __init__(self, settings: HostSettings, wanted: Filter) -> None:
        self._wanted = wanted
        self._heard: deque[Heard] = deque()
        self._client = AeronClient(settings.aeron_dir, "tensorpool-tail")
        self.endpoints = endpoints_of(settings, wanted)
        self._subscriptions: list[tuple[Kind, Subscription]] = [
            (kind, self._client.subscription(endpoint)) for endpoint, kind in self.endpoints.items()
        ]

    def poll(self) -> int:
        """Take what has come; how many messages that were, wanted or not.

        Raises:
            MediaDriverLost: the media driver fell silent.
        """
        if self._client.is_lost:
            raise MediaDriverLost(f"the media driver in {self._client.aeron_dir} fell silent")
        return sum(
            subscription.poll(
                lambda buffer, session, kind=kind, at=subscription.endpoint: self._take(  # type: ignore[misc]
                    buffer, session, kind, at
                ),
                _POLL_LIMIT,
            )
            for kind, subscription in self._subscriptions
        )

    def take(self) -> Iterator[Heard]:
        """The wanted messages since the last call, in order of arrival at each endpoint."""
        while self._heard:
            yield self._heard.popleft()

    def _take(self, buffer: memoryview, session_id: int, kind: Kind, at: Endpoint) -> None:
        message, why = None, None
        try:
            message = wire.decode(buffer)
        except wire.WireError as error:
            why = str(error)
        heard = Heard(time.time(), kind, at.stream_id, session_id, message, why)
        if self._wanted.wants(heard):
            self._heard.append(heard)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()


def endpoints_of(settings: HostSettings, wanted: Filter) -> dict[Endpoint, Kind]:
    """Each endpoint once, by the first kind that uses it."""
    driver = settings.driver
    pairs = (
        (driver.control, Kind.CONTROL),
        (driver.announce, Kind.ANNOUNCE),
        (driver.metadata, Kind.METADATA),
        (driver.qos, Kind.QOS),
        (driver.descriptor, Kind.DESCRIPTOR),
    )
    found: dict[Endpoint, Kind] = {}
    for endpoint, kind in pairs:
        if wanted.wants_endpoint(kind):
            found.setdefault(endpoint, kind)
    return found


def as_json(heard: Heard) -> str:
    """One line of `tail --json`."""
    return json.dumps(
        {
            "time": heard.at,
            "kind": heard.kind,
            "type": heard.type_name,
            "aeron_stream_id": heard.aeron_stream_id,
            "session_id": heard.session_id,
            "fields": heard.fields,
        }
    )


def as_text(heard: Heard) -> str:
    """One line for people; absent fields are left out, enums are named."""
    clock = time.strftime("%H:%M:%S", time.localtime(heard.at))
    milliseconds = int(heard.at % 1 * 1000)
    named = _named(heard)
    fields = " ".join(f"{name}={_shown(value)}" for name, value in named.items())
    return f"{clock}.{milliseconds:03d} {heard.kind:<10} {heard.type_name:<20} {fields}"


def _named(heard: Heard) -> Mapping[str, Any]:
    shown = {}
    for name, value in heard.fields.items():
        if value is None or value in ("", []):
            continue
        kind = _ENUMS.get(name)
        if name == "reason" and isinstance(heard.message, ShmLeaseRevoked):
            kind = LeaseRevokeReason
        if kind is not None and value in kind:
            value = kind(value).name  # noqa: PLW2901 - the same value by its name
        shown[name] = value
    return shown


def _shown(value: Any) -> str:
    if isinstance(value, str):
        # What a peer sent may hold anything: nothing of it reaches the terminal unescaped.
        return value if value.isprintable() and value and " " not in value else json.dumps(value)
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {
            name: _plain(item)
            for name, item in zip(value._fields, value, strict=True)
            if not name.startswith("pad")
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return text if text.isprintable() and "\ufffd" not in text else f"0x{value.hex()}"
    return value
