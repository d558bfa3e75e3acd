"""Receiving frames: descriptors polled, slots validated by their seqlock, views handed out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from tensorpool.client import slots
from tensorpool.client.attachment import Attachment
from tensorpool.client.errors import PoolClosed, SharedMemoryDenied
from tensorpool.client.frame import Frame
from tensorpool.client.hot import ConsumerState, SlotReader
from tensorpool.client.idle import LONGEST_PAUSE_S, AdaptiveIdle
from tensorpool.client.inbox import DescriptorInbox, SharedBranch
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.metadata import Metadata
from tensorpool.client.presence import Position, Presence, Wishes
from tensorpool.client.progress import PartialFrame
from tensorpool.client.progress_inbox import ProgressInbox
from tensorpool.client.rate import RateGate
from tensorpool.client.slots import REFUSED, Descriptor, decode_layout, empty_view
from tensorpool.client.usage import OneUser
from tensorpool.clock import monotonic_ns
from tensorpool.shm.errors import ShmError
from tensorpool.wire.control import Mode
from tensorpool.wire.driver import Role

type FrameHandler = Callable[[Frame], None]

_HELD_LIMIT = 4096
"""Descriptors of an epoch that is not announced yet, kept until it is."""
_KEPT_UNREAD = 1024
"""Descriptors, if the ring has no more slots: older frames were overwritten."""
_EPOCH, _SEQ = 1, 2
_log = logging.getLogger(__name__)


class Consumer(Attachment, ConsumerState[Frame]):
    """A consumer of a stream. For one thread at a time; `Pool.consumer` makes it.

    From the first descriptor of an epoch that it sees to the last one, each frame is counted
    once: `received`, `skipped`, or as one of the drops.

    Attributes:
        received: frames handed out.
        stale: frames handed out and found overwritten when they were copied or checked.
        skipped: frames passed over on purpose: by `latest`, or by `max_rate_hz`.
        drops_gap: frames that the producer wrote and this consumer never saw a descriptor of,
            or gave up to catch up (`max_outstanding_seq_gap`).
        drops_late: frames overwritten before or while they were looked at.
        drops_epoch: frames seen announced whose epoch ended before they were read.
        drops_invalid: frames whose headers broke the specification.
        resyncs: how often `max_outstanding_seq_gap` was exceeded.
    """

    _role = Role.CONSUMER
    _writable = False

    def __init__(  # noqa: PLR0913 - what can be wished for
        self,
        keeper: LeaseKeeper,
        stream_id: int,
        wishes: Wishes,
        *,
        client_id: int | None,
        timeout_s: float,
        max_outstanding_seq_gap: int | None,
    ) -> None:
        self.received = 0
        self.stale = 0
        self.skipped = 0
        self.drops_gap = 0
        self.drops_late = 0
        self.drops_epoch = 0
        self.drops_invalid = 0
        self.resyncs = 0
        self._max_gap = max_outstanding_seq_gap
        self._last_seq = -1
        self._last_epoch = 0
        self._seen_before = (0, 0)
        self._batch = 0
        self._held: deque[Descriptor] = deque(maxlen=_HELD_LIMIT)
        self._reader: SlotReader[Frame] | None = None
        self._partial: slots.SlotReader[Frame] | None = None
        self._idle = AdaptiveIdle()
        self._wishes = wishes
        self._gate = RateGate(wishes.max_rate_hz)
        self._is_gated = wishes.max_rate_hz > 0
        self._uses = 0
        self._presence = Presence(keeper.settings, wishes, self._position, self._tend)
        self._inbox = DescriptorInbox(keeper, self._presence)
        self._progress = ProgressInbox(keeper, self._presence)
        super().__init__(
            keeper, stream_id, self._presence, client_id=client_id, timeout_s=timeout_s
        )
        self._inbox.listen_to(self._lease.stream_id)
        self._progress.stream_id = self._lease.stream_id
        self._inbox.settle()

    # -- frames ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come: the loop survives restarts of producer, driver and media driver.

        It ends when the consumer is closed, e.g. by another thread.

        Raises:
            as `next` does.
        """
        while True:
            try:
                frame = self.next()
            except PoolClosed:
                return
            if frame is not None:
                yield frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Frames as they come, for `async for`; other tasks run meanwhile. As `__iter__`.

        Looks for frames on the event loop's thread, with pauses as `next` makes them but of a
        millisecond at least once nothing came at once.
        """
        while True:
            try:
                frame = self._try_next()
            except PoolClosed:
                return
            if frame is not None:
                self._idle.reset()
                yield frame
            await asyncio.sleep(0 if frame is not None else self._idle.pause_s())

    def next(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame, or None after `timeout_s` seconds (None: wait for ever; 0: do not wait).

        Waiting costs almost nothing: the pauses between two looks grow from tens of microseconds
        while frames come often to 5 ms on a silent stream.

        Raises:
            SharedMemoryDenied: a supervisor told this consumer not to read shared memory.
            ConcurrentUse: another thread is using this consumer.
            ForkedProcess: this is a child of the process that connected.
            PoolClosed: it was closed.
        """
        frame = self._take_at_once()
        if not frame:
            if frame is None and timeout_s == 0:
                return None
            return self._next(timeout_s)
        if self._idle.has_waited:
            self._idle.reset()
        return frame

    def latest(self, timeout_s: float | None = 0) -> Frame | None:
        """The newest frame that is there; those before it are `skipped`.

        Args:
            timeout_s: how long to wait if there is none, in seconds; None: for ever.

        Raises:
            as `next` does.
        """
        with self._user:
            frame = self._take_latest()
            if frame is None and timeout_s != 0:
                frame = self._wait(self._take_latest, timeout_s)
            if frame is not None:
                self._idle.reset()
            return frame

    def poll(self, handler: FrameHandler, limit: int = 64) -> int:
        """Hand the frames that are there, `limit` at most, to `handler`; how many. Never waits.

        Raises:
            as `next` does, and whatever `handler` raises.
        """
        with self._user:
            count = 0
            while count < limit and (frame := self._take()) is not None:
                handler(frame)
                count += 1
            return count

    def poll_progress(self, handler: Callable[[PartialFrame], None], limit: int = 64) -> int:
        """Hand what is told of frames being written to `handler`; how many. Never waits.

        For consumers made with `progress`. A hint, no more: the frame itself comes by `next`.

        Raises:
            as `next` does.
        """
        with self._user:
            self._check_current()
            if self._mapped is None:
                return 0
            assert self._partial is not None
            return self._progress.poll(self._mapped, self._partial.view, handler, limit)

    # -- gathered -------------------------------------------------------------------------

    @property
    def is_gathered(self) -> bool:
        """Whether its frames are had from a `Gathering` at the moment, and from there alone."""
        return self._inbox.has_branch

    def join_gathering(
        self, user: OneUser, branch_of: Callable[[DescriptorInbox], SharedBranch]
    ) -> None:
        """For `Gathering`: hear of frames by a share of its subscription; `user` is whose it is.

        Raises:
            as `next` does.
        """
        self._user.lend(user)
        self._disarm()
        try:
            self._check_current()
            self._inbox.listen_by(branch_of(self._inbox))
        except BaseException:
            self._user.take_back()
            raise

    def leave_gathering(self) -> None:
        """For `Gathering`: hear of frames by a subscription of our own again; idempotent."""
        if not self._is_closed and not self._keeper.is_forked:
            self._inbox.listen_by(None)
            self._open_short_way()
        self._user.take_back()

    @property
    def listens_apart(self) -> bool:
        """For `Gathering`: whether frames may be told on this consumer's own stream."""
        return self._inbox.listens_apart

    def count_waiting(self) -> int:
        """For `Gathering`: catch up with what has changed; how many descriptors wait.

        Raises:
            as `next` does.
        """
        self._check_current()
        self._inbox.fill()
        return len(self._inbox.waiting)

    def take_gathered(self, batch: int) -> Frame | None:
        """For `Gathering`: the next frame of those whose descriptors wait, None if none is whole.

        Args:
            batch: another number for each time that descriptors were heard.

        Raises:
            as `next` does.
        """
        if batch != self._batch:
            self._batch = batch
            self._check_current()
            if self._max_gap is not None:
                self._resync(self._max_gap)
            self._check_regions()
        return self._take()

    # -- what is known --------------------------------------------------------------------

    @property
    def metadata(self) -> Metadata | None:
        """What the producer last said about its stream, None if nothing was heard."""
        return self._presence.book.latest

    def metadata_of(self, version: int) -> Metadata | None:
        """The metadata of one version, as `frame.metadata` gives it."""
        return self._presence.book.get(version)

    @property
    def mode(self) -> Mode:
        """STREAM or RATE_LIMITED, as the supervisor granted or forced it (Wire §11)."""
        return self._presence.mode

    @property
    def has_own_stream(self) -> bool:
        """Whether descriptors come on a stream of this consumer's own (Wire §5)."""
        return self._inbox.is_own

    @property
    def payload_fallback_uri(self) -> str:
        """Where a consumer without shared memory gets its payload, "" if nothing was told."""
        config = self._presence.config
        return "" if config is None else config.payload_fallback_uri

    def count_stale(self) -> None:
        """For `Frame`: one that was handed out was overwritten while it was read."""
        self.stale += 1

    def _position(self) -> Position:
        last = self._last_seq
        seen = (self._last_epoch, last) if last >= 0 else self._seen_before
        # A frame that was overwritten mid-read is late, whoever read it (Wire §10.4.1).
        return Position(*seen, self.drops_gap, self.drops_late + self.stale)

    def _tend(self) -> None:
        """Read on in the place of a user who does not; the keeper's thread does so now and then.

        What a subscriber has not read holds up the end of every publication that was closed, for
        as long as it is there: their logs and counters would be all that a media driver has.
        """
        user = self._user.owner
        uses, self._uses = self._uses, user.user_uses
        if uses != self._uses or not user.begin_tending():
            return
        try:
            nslots = 0 if self._mapped is None else self._mapped.nslots
            self._inbox.read_on(max(nslots, _KEPT_UNREAD), self._drop)
            self._progress.read_on()
        except Exception:  # noqa: BLE001 - whatever it is, the user meets it
            _log.debug("an idle consumer cannot be read on for", exc_info=True)
        finally:
            user.end_tending()

    def _drop(self, descriptor: Descriptor) -> None:
        """Of a frame that nobody came for, and that was surely overwritten since."""
        if self._is_next(descriptor):
            self._pass(descriptor)
            self.drops_late += 1
        elif descriptor[_EPOCH] != self._last_epoch:
            self.drops_epoch += 1

    # -- waiting --------------------------------------------------------------------------

    def _next(self, timeout_s: float | None) -> Frame | None:
        with self._user:
            frame = self._take()
            if frame is None and timeout_s != 0:
                frame = self._wait(self._take, timeout_s)
            if frame is not None:
                self._idle.reset()
            return frame

    def _wait(self, take: Callable[[], Frame | None], timeout_s: float | None) -> Frame | None:
        if timeout_s is None:
            while (frame := take()) is None:
                self._idle.wait(LONGEST_PAUSE_S)
            return frame
        deadline_ns = monotonic_ns() + int(timeout_s * 1e9)
        while (frame := take()) is None:
            left_ns = deadline_ns - monotonic_ns()
            if left_ns <= 0:
                return None
            self._idle.wait(left_ns / 1e9)
        return frame

    def _try_next(self) -> Frame | None:
        with self._user:
            return self._take()

    def _take(self) -> Frame | None:
        """The next frame that is there and whole."""
        frame = self._take_inside()
        if frame is not False:
            return frame
        inbox = self._inbox
        if self._version != self._lease.version or inbox.connection != self._keeper.connection:
            self._catch_up()
            self._open_short_way()
        while True:
            while inbox.waiting:
                frame = self._open(inbox.waiting.popleft())
                if frame is not None:
                    return frame
            if not inbox.fill():
                self._open_short_way()
                return None
            if self._max_gap is not None:
                self._resync(self._max_gap)
            self._check_regions()

    def _open_short_way(self) -> None:
        """From now on frames come the shortest way, if that is all there is to do for one."""
        mapped, source, lease = self._mapped, self._inbox.sole_source, self._lease
        is_plain = self._max_gap is None and not self._is_gated and not self._held
        if mapped is None or source is None or not is_plain:
            return
        self._arm(
            lease,
            self._version,
            self._keeper,
            self._inbox.connection,
            self._user,
            mapped.mappings,
            self._reader,
            self._inbox.sink,
            source,
        )

    def _check_regions(self) -> None:
        """Before the frames of a batch are touched: regions that were cut have none."""
        if self._mapped is None:
            return
        try:
            self._mapped.require_whole()
        except ShmError:
            self.drops_invalid += len(self._inbox.waiting)
            self._inbox.waiting.clear()

    def _take_latest(self) -> Frame | None:
        self._check_current()
        self._inbox.drain()
        frame = None
        while frame is None and self._inbox.waiting:
            newest = max(self._inbox.waiting, key=lambda d: (d[_EPOCH], d[_SEQ]))
            while self._inbox.waiting[0] is not newest:
                if self._is_next(descriptor := self._inbox.waiting.popleft()):
                    self._pass(descriptor)
                    self.skipped += 1
            frame = self._open(self._inbox.waiting.popleft())
        return frame

    # -- changes --------------------------------------------------------------------------

    def _check_current(self) -> None:
        if (
            self._version != self._lease.version
            or self._inbox.connection != self._keeper.connection
        ):
            self._catch_up()

    def _catch_up(self) -> None:
        """The lease, the epoch, the connection or the grant changed."""
        self._disarm()
        try:
            mapped = self._refresh()
        except ShmError:
            return  # fail closed; the next announce or attach brings other regions (Wire §15.22)
        self._inbox.settle()
        config = self._presence.config
        if config is not None and not config.use_shm:
            self._version = -1  # judged again at the next call
            raise SharedMemoryDenied(
                f"stream {self.stream_id}: the supervisor told this consumer not to read shared "
                f"memory; payload_fallback_uri is {config.payload_fallback_uri!r}",
                config.payload_fallback_uri,
            )
        # On a stream of our own the producer itself keeps to max_rate_hz.
        self._is_gated = self.mode == Mode.RATE_LIMITED and self._wishes.max_rate_hz > 0
        if mapped is not None and self._held:
            held, self._held = self._held, deque(maxlen=_HELD_LIMIT)
            self.drops_epoch += sum(d[_EPOCH] < mapped.epoch for d in held)
            self._inbox.waiting.extendleft(d for d in reversed(held) if d[_EPOCH] >= mapped.epoch)

    def _resync(self, max_gap: int) -> None:
        """Drop to the latest frame if too many are outstanding (Wire §15.4)."""
        self._inbox.drain()
        waiting = self._inbox.waiting
        if self._last_seq < 0 or not waiting or waiting[-1][_EPOCH] != self.epoch:
            return
        if waiting[-1][_SEQ] - self._last_seq <= max_gap:
            return
        self.resyncs += 1
        while len(waiting) > 1:
            if self._is_next(descriptor := waiting.popleft()):
                self._pass(descriptor)
                self.drops_gap += 1

    # -- one frame ------------------------------------------------------------------------

    def _is_next(self, descriptor: Descriptor) -> bool:
        """Whether it is a frame of the mapped epoch that was not passed yet."""
        return descriptor[_EPOCH] == self._last_epoch and descriptor[_SEQ] > self._last_seq

    def _pass(self, descriptor: Descriptor) -> None:
        """Move on to this frame; what lies between is a gap, or was kept back on our own wish."""
        seq = descriptor[_SEQ]
        missing = seq - self._last_seq - 1
        if missing and self._last_seq >= 0:
            if self._is_gated and self._inbox.is_own:
                self.skipped += missing
            else:
                self.drops_gap += missing
        self._last_seq = seq

    def _open(self, descriptor: Descriptor) -> Frame | None:
        _, epoch, seq, published_ns, _, trace_id = descriptor
        mapped = self._mapped
        if mapped is None or epoch != mapped.epoch:
            self._set_aside(descriptor)
            return None
        if seq == self._last_seq + 1:
            self._last_seq = seq
        elif seq <= self._last_seq:
            return None
        else:
            self._pass(descriptor)
        assert self._reader is not None
        frame = self._reader.read(seq, epoch, published_ns, trace_id)
        if not frame:
            if frame is None:
                self.drops_late += 1
                self._skip_overtaken(mapped.epoch, self._reader.overtaken(seq))
            else:
                self.drops_invalid += 1
            return None
        if self._is_gated and not self._inbox.is_own:
            source_ns = frame.timestamp_ns if frame.published_ns is None else frame.published_ns
            if not self._gate.admits(source_ns):
                self.skipped += 1
                return None
        self.received += 1
        return frame

    def _skip_overtaken(self, epoch: int, last: int) -> None:
        """Pass over what is surely overwritten as well, faster than the producer goes on.

        Whoever looked into each of those slots would stay a ring behind for ever.
        """
        waiting = self._inbox.waiting
        while waiting and waiting[0][_SEQ] <= last and waiting[0][_EPOCH] == epoch:
            if self._is_next(descriptor := waiting.popleft()):
                self._pass(descriptor)
                self.drops_late += 1

    def _set_aside(self, descriptor: Descriptor) -> None:
        """Of another epoch than the mapped one: its announce is on the way, or it is over."""
        if self._mapped is None or descriptor[_EPOCH] > self._mapped.epoch:
            self._disarm()
            self._held.append(descriptor)
            self._version = -1 if self._lease.regions is not None else self._version
        else:
            self.drops_epoch += 1

    def _on_map(self) -> None:
        mapped = self._mapped
        assert mapped is not None
        rules = (decode_layout, REFUSED, empty_view)
        regions = (mapped.ring, mapped.pool_memory, mapped.nslots)
        self._reader = SlotReader(*regions, Frame, self, *rules)
        self._partial = slots.SlotReader(*regions, Frame, self, *rules)
        # The epoch of a lost lease, mapped again, goes on: what passed meanwhile is a gap.
        if self.epoch != self._last_epoch:
            if self._last_seq >= 0:
                self._seen_before = (self._last_epoch, self._last_seq)
            self._last_epoch, self._last_seq = self.epoch, -1

    def _on_unmap(self) -> None:
        self._disarm()
        self._reader = self._partial = None

    def close(self) -> None:
        """Detach and let go; idempotent. Frames handed out keep their memory.

        Another thread that waits in `next` gets PoolClosed, and one that iterates ends its loop.
        """
        super().close()
        if not self._keeper.is_forked:
            self._inbox.close()
            self._progress.close()


def checked_gap(value: int | None) -> int | None:
    """`value` as a `max_outstanding_seq_gap`. Raises ValueError if it is none."""
    if value is not None and value < 1:
        raise ValueError(f"max_outstanding_seq_gap={value}: 1 or more frames, or None for no limit")
    return value
