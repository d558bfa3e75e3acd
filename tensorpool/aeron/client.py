"""A process's connection to the media driver.

Every client context sets an error handler: without one the C client ends the whole
process when the media driver goes silent.

Nothing here calls the binding's own `close`: it lets other threads run while the C client frees
what they may be in the middle of polling, or offering on. To close is to let go. The binding's
objects end with their last reference; each keeps its client, a retained image keeps its
subscription, and whoever is inside a call keeps what it calls.
"""

from __future__ import annotations

import enum
import errno
import gc
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Never, Self

import pyaeron

from tensorpool.aeron import forked
from tensorpool.errors import HostError
from tensorpool.logs import RateLimit, counted
from tensorpool.settings import Endpoint

type FragmentHandler = Callable[[memoryview, int], None]
"""Called with the fragment, valid only during the call, and its Aeron session id."""

_OWN_LIMIT = 4096
DRIVER_TIMEOUT_MS = 1000
"""Silence of the media driver after which it counts as lost."""

_ENOMEM = f"({errno.ENOMEM})"
_NO_ROOM = (
    "; mostly its counters are used up (tensorpool_aeron_counters): every pair of a publication "
    "and a subscription takes one, so close some, give consumers streams of their own, or raise "
    "media_driver.max_counters of the host"
)
_TIMED_OUT = re.compile(r"\(-100[012]\)")
"""How the C client's own time-outs begin: driver, client, conductor. The binding gives the first
its own type only where the wait is its own."""

_log = logging.getLogger(__name__)


class MediaDriverLost(HostError):
    """The media driver is not there, or fell silent: connect again."""


_PRUNE_EVERY = 256
"""Publications and subscriptions made. Once a client a look at every object there is finds the list
of them: not for who makes a few."""
_PROMPT_SLEEP_MS = 2
PATIENT_SLEEP_MS = 16
"""Pause of the client's conductor: how soon it sees what the media driver answers. A process
that adds its few publications at its start can be patient: each wake-up costs."""


class _Closed:
    """Stands for an object of the binding that was let go."""

    is_closed = True
    is_connected = False

    def __getattr__(self, name: str) -> Never:
        raise pyaeron.ResourceClosed(f"{name}: closed")


_CLOSED = _Closed()


def _refuse(*_: object, **__: object) -> Never:
    raise pyaeron.ResourceClosed("closed")


class Offer(enum.Enum):
    """What became of an offered message."""

    SENT = enum.auto()
    BACK_PRESSURED = enum.auto()
    NOT_CONNECTED = enum.auto()


class Publication:
    """Where one thread offers messages. Offers never block.

    Always exclusive: a log and a session of its own. Publishers that share a log on IPC share
    its session id too, and one of them killed in the middle of an offer stalls the others.
    """

    def __init__(self, raw: Any, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.session_id = raw.session_id
        self._raw = raw
        self.raw_offer: Callable[..., object] = raw.offer
        """The binding's own offer, for the per-frame path: True if sent, else falsy."""
        forked.hold(self)

    def offer(self, message: bytes | bytearray | memoryview) -> Offer:
        """Offer one whole message.

        Raises:
            MediaDriverLost: the publication was closed under us.
            HostError: the message is longer than the channel's term allows.
        """
        try:
            result = self._raw.offer(message)
        except (pyaeron.PublicationClosed, pyaeron.ResourceClosed) as error:
            raise MediaDriverLost(f"{self.endpoint}: publication closed") from error
        except pyaeron.MaxPositionExceeded as error:
            raise MediaDriverLost(f"{self.endpoint}: position limit of the stream") from error
        except pyaeron.AeronError as error:
            raise HostError(
                f"{self.endpoint}: message of {len(message)} bytes refused: {_first_line(error)}; "
                "a longer term-length in the channel allows longer messages"
            ) from error
        if result is True:
            return Offer.SENT
        if result is pyaeron.NOT_CONNECTED:
            return Offer.NOT_CONNECTED
        return Offer.BACK_PRESSURED

    @property
    def is_connected(self) -> bool:
        """Whether at least one subscriber listens."""
        return bool(self._raw.is_connected)

    def remembered(self) -> list[weakref.ref[object]]:
        """What the binding remembers of everything that the same client made."""
        return _siblings(self._raw)

    def close(self) -> None:
        """Close, once no thread is in the middle of an offer; idempotent, for any thread."""
        self._raw, self.raw_offer = _CLOSED, _refuse

    def abandon(self) -> object:
        """In a forked child: leave the parent's publication alone."""
        raw, self._raw = self._raw, forked.Abandoned()
        return raw


class Subscription:
    """Where messages are polled. For one thread only."""

    def __init__(self, raw: Any, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._raw = raw
        self._own: pyaeron.Image | None = None
        self.raw_poll: Callable[..., int] = raw.poll
        """The binding's own poll(handler(buffer, header), limit, assemble=...)."""
        # The binding assembles a message anew for every other handler that it is given: half a
        # message at the end of one poll would be lost with the next.
        self._handler: list[FragmentHandler] = []
        self._deliver = _deliver_to(self._handler)
        forked.hold(self)

    def poll(self, handler: FragmentHandler, limit: int) -> int:
        """Hand up to `limit` messages to `handler`, fragments assembled; how many there were.

        Raises:
            MediaDriverLost: the subscription was closed under us.
        """
        self._handler.append(handler)
        try:
            return int(self._raw.poll(self._deliver, limit))
        except pyaeron.ResourceClosed as error:
            raise MediaDriverLost(f"{self.endpoint}: subscription closed") from error
        finally:
            self._handler.clear()

    def poll_fairly(self, handler: FragmentHandler, limit: int) -> int:
        """As `poll`; but if `limit` did not suffice, one more message of every publisher.

        `poll` begins with another publisher each time, yet one that always has more than
        `limit` messages takes whole calls for itself, and the others wait for their turn.

        Raises:
            MediaDriverLost: the subscription was closed under us.
        """
        count = self.poll(handler, limit)
        if count < limit:
            return count
        try:
            for image in self._images():
                with suppress(pyaeron.ResourceClosed):  # its publisher left
                    count += image.poll(lambda b, h: handler(memoryview(b), h.session_id), 1)
        except pyaeron.ResourceClosed as error:
            raise MediaDriverLost(f"{self.endpoint}: subscription closed") from error
        return count

    def skip_own(self, publication: Publication) -> None:
        """Pass over what our own publication has sent on this stream.

        It is heard like anybody's, and with a tether it waits for us: answers that are heard
        more slowly than they are sent would hold back the next ones.

        Raises:
            MediaDriverLost: the subscription was closed under us.
        """
        try:
            if self._own is None or self._own.is_closed:
                self._own = next(
                    (i for i in self._images() if i.session_id == publication.session_id), None
                )
            if self._own is not None:
                self._own.poll(lambda _, __: None, _OWN_LIMIT)
        except pyaeron.ResourceClosed as error:
            self._own = None
            if self._raw.is_closed:
                raise MediaDriverLost(f"{self.endpoint}: subscription closed") from error

    def _images(self) -> Iterator[pyaeron.Image]:
        images = (self._raw.image_at_index(i) for i in range(self._raw.image_count))
        return (image for image in images if image is not None)

    @property
    def is_connected(self) -> bool:
        """Whether at least one publisher is there."""
        return bool(self._raw.is_connected)

    @property
    def image_count(self) -> int:
        """How many publishers are there."""
        return int(self._raw.image_count)

    def session_ids(self) -> set[int]:
        """The sessions of the publishers that are there now.

        Raises:
            MediaDriverLost: the subscription was closed under us.
        """
        try:
            return {image.session_id for image in self._images()}
        except pyaeron.ResourceClosed as error:
            raise MediaDriverLost(f"{self.endpoint}: subscription closed") from error

    def remembered(self) -> list[weakref.ref[object]]:
        """What the binding remembers of everything that the same client made."""
        return _siblings(self._raw)

    def close(self) -> None:
        """Close, once no thread is in the middle of a poll; idempotent, for any thread."""
        self._raw, self.raw_poll, self._own = _CLOSED, _refuse, None

    def abandon(self) -> object:
        """In a forked child: leave the parent's subscription alone."""
        raw, self._raw = self._raw, forked.Abandoned()
        return raw


class AeronClient:
    """One client of the media driver in `aeron_dir`; a context manager.

    Args:
        aeron_dir: the media driver's directory.
        name: how the media driver lists this client.

    Raises:
        MediaDriverLost: no live media driver within about a second.
    """

    def __init__(
        self, aeron_dir: str, name: str, *, conductor_sleep_ms: int = _PROMPT_SLEEP_MS
    ) -> None:
        self.aeron_dir = aeron_dir
        self._lock = threading.Lock()
        self._is_closing = False
        self._open: weakref.WeakSet[Publication | Subscription] = weakref.WeakSet()
        self._made = 0
        self._remembered: list[weakref.ref[object]] | None = None
        self.errors = 0
        """Errors reported by the client's conductor."""
        self._error_log = RateLimit()
        # The context reads it when it is made; its own arguments for it come too late and
        # leave the default of 16 ms, which every added publication or subscription would wait.
        os.environ.setdefault("AERON_CLIENT_IDLE_SLEEP_DURATION", f"{conductor_sleep_ms}ms")
        context = pyaeron.Context(
            dir=aeron_dir,
            client_name=name,
            driver_timeout_ms=DRIVER_TIMEOUT_MS,
            error_handler=self._on_error,
        )
        try:
            self._raw: Any = pyaeron.Aeron(context=context, idle=_await_idle())
        except pyaeron.AeronError as error:
            raise MediaDriverLost(
                f"no media driver in {aeron_dir}: {_first_line(error)}; start one "
                "(`tensorpool up`) or point AERON_DIR at the one that runs"
            ) from error
        forked.hold(self)

    def publication(self, endpoint: Endpoint) -> Publication:
        """A new publication.

        Raises:
            HostError: the media driver refuses the channel.
            MediaDriverLost: it does not answer.
        """
        try:
            raw = self._raw.add_exclusive_publication(endpoint.channel, endpoint.stream_id)
        except pyaeron.AeronError as error:
            raise self._refused("publication", endpoint, error) from error
        return self._opened(Publication(raw, endpoint))

    def subscription(self, endpoint: Endpoint, *, tether: bool = False) -> Subscription:
        """A new subscription.

        `tether` asks that publishers wait for this subscriber instead of dropping it when
        it stalls: for control streams, where nothing may be lost.

        Raises:
            HostError: the media driver refuses the channel.
            MediaDriverLost: it does not answer.
        """
        channel = with_parameter(endpoint.channel, "tether", "true" if tether else "false")
        try:
            raw = self._raw.add_subscription(channel, endpoint.stream_id)
        except pyaeron.AeronError as error:
            raise self._refused("subscription", endpoint, error) from error
        return self._opened(Subscription(raw, endpoint))

    @property
    def is_lost(self) -> bool:
        """Whether the media driver fell silent; then everything of this client is dead."""
        return bool(self._raw.is_closed)

    def close(self) -> None:
        """Close the client with all its publications and subscriptions; idempotent.

        What another thread is in the middle of using, an addition included, ends when it is done.
        """
        with self._lock:
            self._is_closing = True
            still_open = list(self._open)
        for resource in still_open:
            resource.close()
        self._raw = _CLOSED

    def _opened[T: (Publication, Subscription)](self, resource: T) -> T:
        with self._lock:
            if not self._is_closing:
                self._open.add(resource)
                self._made += 1
                if self._made % _PRUNE_EVERY == 0:
                    self._prune(resource)
                return resource
        resource.close()
        raise MediaDriverLost("the connection is closed")

    def _prune(self, resource: Publication | Subscription) -> None:
        """Have the binding forget what is no more: it only does when it is closed itself."""
        if self._remembered is None:
            self._remembered = resource.remembered()
        count = len(self._remembered)  # what other threads add meanwhile comes behind
        alive = [one for one in self._remembered[:count] if one() is not None]
        self._remembered[:count] = alive

    def abandon(self) -> object:
        """In a forked child: leave the parent's connection alone."""
        self._lock = threading.Lock()  # a thread that the child has not may hold it
        raw, self._raw = self._raw, forked.Abandoned()
        return raw

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _on_error(self, code: int, text: str) -> None:
        self.errors += 1
        if (suppressed := self._error_log.take()) is not None:
            fields = {"aeron_code": code, "why": text, **counted(suppressed)}
            _log.warning("aeron client error", extra=fields)

    def _refused(self, what: str, endpoint: Endpoint, error: Exception) -> HostError:
        if isinstance(error, pyaeron.DriverTimeout) or _TIMED_OUT.match(str(error)):
            return MediaDriverLost(f"{what} {endpoint}: the media driver does not answer")
        if isinstance(error, pyaeron.ResourceClosed) or self.is_lost:
            return MediaDriverLost(f"{what} {endpoint}: the connection is closed")
        why = _first_line(error)
        return HostError(
            f"{what} {endpoint} refused by the media driver: {why}"
            f"{_NO_ROOM if why.startswith(_ENOMEM) else ''}"
        )


def _siblings(raw: object) -> list[weakref.ref[object]]:
    """The binding's list of weak references that one to `raw` is in, for its client's close."""
    # A tuple: what getweakrefs returns is a list of weak references too, and would be found first.
    for reference in tuple(weakref.getweakrefs(raw)):
        for referrer in gc.get_referrers(reference):
            if type(referrer) is list and all(type(one) is weakref.ref for one in referrer):
                return referrer
    return []


def _deliver_to(handler: list[FragmentHandler]) -> Callable[[Any, Any], None]:
    def deliver(buffer: Any, header: Any) -> None:
        handler[0](memoryview(buffer), header.session_id)

    return deliver


def _await_idle() -> pyaeron.IdleStrategy:
    """How to wait for the media driver's answers: the default naps far longer than they take."""
    return pyaeron.IdleStrategy.backoff(max_park_ns=500_000)


def has_media_driver_file(aeron_dir: str) -> bool:
    """Whether a media driver has at least been there: connecting would not wait in vain."""
    return os.path.exists(os.path.join(aeron_dir, "cnc.dat"))


def with_parameter(channel: str, key: str, value: str) -> str:
    """`channel` with one URI parameter added, unless it already sets it."""
    head, mark, tail = channel.partition("?")
    if any(pair.startswith(f"{key}=") for pair in tail.split("|")):
        return channel
    return f"{head}?{tail}|{key}={value}" if mark and tail else f"{head}?{key}={value}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line and not line.startswith("[")]
    return lines[-2] if len(lines) > 1 and lines[-1].startswith(" (errcode") else lines[0]
