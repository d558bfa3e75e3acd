"""Writing frames: one copy with `publish`, none with `claim`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorpool.aeron.client import MediaDriverLost
from tensorpool.client.attachment import Attachment
from tensorpool.client.audience import Audience
from tensorpool.client.claims import ClaimedFrame, ClaimForm, Committed, SlotPlan
from tensorpool.client.descriptors import CODEC, DescriptorOutlet
from tensorpool.client.errors import FrameTooLarge, LeaseLost, TooManyClaims
from tensorpool.client.frame_fields import frame_fields
from tensorpool.client.hot import ProducerState, SlotWriter, is_native
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.mapping import MappedEpoch
from tensorpool.client.metadata import Metadata, make_metadata
from tensorpool.client.progress import ProgressReport
from tensorpool.client.slots import encode_header
from tensorpool.client.sources import as_source, code_of
from tensorpool.client.tensors import OCTETS, contiguous_header, wire_dtype
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.processor import last_level_cache_bytes
from tensorpool.shm.errors import ShmError
from tensorpool.wire.control import Dtype, MajorOrder
from tensorpool.wire.driver import Role

_FORMS = 64
"""More shapes than that are worked out each time."""
DEFAULT_LINGER_S = 1.0
_LINGER_LOOK_S = 0.002
_LOOK_NS = NS_PER_MS
"""How often it is looked whether the regions' files are whole."""


class Producer(Attachment, ProducerState):
    """The one producer of a stream. For one thread at a time; `Pool.producer` makes it.

    Attributes:
        published: frames committed.
    """

    _role = Role.PRODUCER
    _writable = True

    def __init__(
        self, keeper: LeaseKeeper, stream_id: int, *, client_id: int | None, timeout_s: float
    ) -> None:
        self.published = 0
        self._seq = 0
        self._described = -1
        self._writer: SlotWriter | None = None
        self._forms: dict[tuple[Any, ...], ClaimForm] = {}
        self._claims: dict[int, ClaimedFrame | Committed] = {}
        self._meta_version = 0
        self._look_ns = 0
        self._headers: dict[tuple[tuple[int, ...], Dtype, MajorOrder], bytes] = {}
        self._audience = Audience(keeper.settings, lambda: self._described)
        self._outlet = DescriptorOutlet(keeper, self._audience)
        super().__init__(
            keeper, stream_id, self._audience, client_id=client_id, timeout_s=timeout_s
        )
        try:
            self._ready(timeout_s)
        except BaseException:
            self.close(0)
            raise

    @property
    def next_seq(self) -> int:
        """Sequence number of the next frame; starts at 0 with each epoch (Wire §15.2)."""
        return self._seq

    @property
    def is_connected(self) -> bool:
        """Whether any consumer listens to the shared descriptor stream."""
        return self._outlet.is_connected

    @property
    def consumer_ids(self) -> tuple[int, ...]:
        """Consumers of this stream that were heard of lately (hello or QoS)."""
        return self._audience.consumer_ids

    @property
    def drops_back_pressured(self) -> int:
        """Frames committed whose descriptor could not be sent; consumers count them as gaps."""
        return self._outlet.dropped

    @property
    def pool_strides(self) -> tuple[int, ...]:
        """The frame sizes that the stream's pools hold, in bytes, ascending."""
        return tuple(pool.stride_bytes for pool in self._mapped.pools) if self._mapped else ()

    def publish(  # noqa: PLR0913 - what a frame carries
        self,
        array: Any,
        *,
        dtype: Dtype | None = None,
        timestamp_ns: int | None = None,
        meta_version: int | None = None,
        trace_id: int = 0,
        timeout_s: float | None = None,
    ) -> int:
        """Copy `array` into a payload slot and tell the consumers; the frame's seq.

        Args:
            array: a numpy array, anything with DLPack in host memory (torch, jax, ...), a
                buffer, bytes, or what numpy makes an array of; 1 to 8 dimensions. C-contiguous
                and Fortran-contiguous arrays keep their order; others become C order.
            dtype: `Dtype.BYTES` or `Dtype.BIT` for octets of that meaning.
            timestamp_ns: capture time; CLOCK_MONOTONIC now if None.
            meta_version: which metadata applies; None is the latest of `metadata`, 0 is none.
            trace_id: 0 if the frame is not traced.
            timeout_s: how long to wait while there is no lease, in seconds; 0 raises at once,
                None is the time-out that the producer was made with.

        Raises:
            FrameTooLarge: no pool's stride holds the array; the strides are named (Wire §9).
            TensorError: its element type or shape cannot be published (Wire §8.2, §15.8).
            FrameFieldError: a timestamp, version or trace id is no integer of its range.
            TooManyClaims: every slot of the ring is claimed.
            LeaseLost, NoDriver, AttachRejected, MediaDriverLost: no lease in time.
            ConcurrentUse, ForkedProcess, PoolClosed: see `docs/client.md`.
            RegionError: somebody has cut a region's file; new ones are on the way.
        """
        version = self._meta_version if meta_version is None else meta_version
        if dtype is None:
            seq = self._publish_at_once(array, timestamp_ns, version, trace_id)
            if seq is not None:
                return seq
        with self._user:
            return self._publish(array, dtype, timestamp_ns, version, trace_id, timeout_s)

    def claim(  # noqa: PLR0913 - what a frame carries
        self,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike | Dtype,
        *,
        order: str = "C",
        timestamp_ns: int | None = None,
        meta_version: int | None = None,
        trace_id: int = 0,
        timeout_s: float | None = None,
    ) -> ClaimedFrame:
        """A slot to write in place: zero copies.

            with camera.claim((480, 640), np.uint16) as frame:
                frame.array[:] = sensor.read()

        The end of the block publishes; an exception in it abandons the slot, and consumers see
        nothing. Without the block, call `publish` or `abandon` of what is returned: several
        claims may be in flight, up to one less than the ring has slots.

        Args:
            shape: 1 to 8 dimensions.
            dtype: numpy's element type, or `Dtype.BYTES` or `Dtype.BIT` for octets.
            order: "C" (row-major) or "F" (column-major).
            timestamp_ns: as in `publish`; it can be set in the frame as well.
            meta_version: as in `publish`, or set in the frame.
            trace_id: as in `publish`, or set in the frame.
            timeout_s: as in `publish`.

        Raises:
            as `publish` does; LeaseLost also at the end, if the lease ended meanwhile.
        """
        version = self._meta_version if meta_version is None else meta_version
        wanted = (shape, dtype, order)
        try:
            form = self._forms.get(wanted)
        except TypeError:  # a list in it
            form = None
        if form is not None:
            at_once: ClaimedFrame | None = self._claim_at_once(
                ClaimedFrame, *form, timestamp_ns, version, trace_id
            )
            if at_once is not None:
                return at_once
        timestamp_ns, version, trace_id = frame_fields(timestamp_ns, version, trace_id)
        with self._user:
            if form is None:
                dims, native, is_column, header, nbytes = self._form_of(shape, dtype, order)
            else:
                (_, _, _, header, nbytes), dims, native, is_column = form
            mapped = self._ready(timeout_s)
            self._open_short_way(mapped)
            seq = self._seq
            plan = self._begin(mapped, seq, header, nbytes)
            major = MajorOrder.COLUMN if is_column else MajorOrder.ROW
            claim = ClaimedFrame(
                self,
                plan,
                plan.writer.view(seq, plan.pool_index, dims, native, is_column),
                seq,
                monotonic_ns() if timestamp_ns is None else timestamp_ns,
                version,
                trace_id,
                None if self._audience.policy is None else self._report(plan, seq, dims, major),
            )
            self._claims[seq] = claim
            self._seq = seq + 1
            if len(self._forms) < _FORMS:
                with suppress(TypeError):
                    self._forms[wanted] = ClaimForm(plan, dims, native, is_column)
            return claim

    def metadata(
        self,
        *,
        name: str = "",
        summary: str = "",
        attributes: Mapping[str, object] | None = None,
    ) -> Metadata:
        """Announce what this stream is; frames from now on carry its version.

        It is told at once, every second, to each new consumer, and again after every restart
        (`DataSourceAnnounce`, `DataSourceMeta`; Wire §10.3).

        Args:
            name: human-readable name, ASCII.
            summary: what the frames are, e.g. "480x640 uint16 at 100 Hz", ASCII.
            attributes: by key: text, bytes, `tensorpool.Attribute`, or anything JSON can hold.

        Raises:
            MetadataError: it cannot be told, or is longer than 64 KiB.
        """
        version = self._meta_version + 1
        made = make_metadata(version, name, summary, attributes or {})
        self._meta_version = version
        self._audience.tell(made)
        return made

    def close(self, linger_s: float | None = None) -> None:
        """Detach and let go; idempotent.

        The end of a producer begins a new epoch at once, and consumers must drop what they have
        not read of the old one (Driver §6, Wire §15.21). So closing lingers until every consumer
        that was heard of has reported the last frame, `linger_s` seconds at most (None: 1 s;
        0: not at all). Consumers of this library report within 0.2 s of catching up; others once
        a second. Claims that are still open are abandoned.
        """
        if not self._is_closed and not self._keeper.is_forked:
            for claim in list(self._claims.values()):
                if isinstance(claim, ClaimedFrame):
                    claim.abandon()
            self._linger(DEFAULT_LINGER_S if linger_s is None else linger_s)
        super().close()
        self._outlet.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(None if kind is None else 0)

    # -- one frame ------------------------------------------------------------------------

    def _publish(  # noqa: PLR0913 - what a frame carries
        self,
        array: Any,
        dtype: Dtype | None,
        timestamp_ns: int | None,
        version: int,
        trace_id: int,
        timeout_s: float | None,
    ) -> int:
        """After any change, and where the C module is not."""
        timestamp_ns, version, trace_id = frame_fields(timestamp_ns, version, trace_id)
        if dtype is not None or type(array) is not np.ndarray or self._claims:
            return self._publish_any(array, dtype, timestamp_ns, version, trace_id, timeout_s)
        mapped, seq = self._ready(timeout_s), self._seq
        self._open_short_way(mapped)
        assert self._writer is not None
        is_told = self._writer.publish(
            array, seq, timestamp_ns, version, trace_id, self._outlet.direct_offer
        )
        if is_told is None:
            return self._publish_any(array, dtype, timestamp_ns, version, trace_id, timeout_s)
        self._seq = seq + 1
        self.published += 1
        self._described = seq
        if not is_told:
            self._tell(seq, version, trace_id)
        return seq

    def _open_short_way(self, mapped: MappedEpoch) -> None:
        """From now on frames are published the shortest way."""
        outlet, lease = self._outlet, self._lease
        if is_native:
            self._look_ns = 0  # who comes back from there looks at once
        if self._version == lease.version and outlet.publication is not None:
            self._arm(
                lease,
                self._version,
                self._keeper,
                outlet.connection,
                self._user,
                mapped.mappings,
                self._writer,
                outlet.publication,
                self._audience,
                self._claims,
            )

    def _publish_any(  # noqa: PLR0913 - what a frame carries
        self,
        array: Any,
        dtype: Dtype | None,
        timestamp_ns: int | None,
        meta_version: int,
        trace_id: int,
        timeout_s: float | None,
    ) -> int:
        """What `SlotWriter.publish` leaves to us: other sources, strided arrays, open claims."""
        source, code = as_source(array, dtype)
        native = source.dtype.newbyteorder("<")
        is_column = source.flags.f_contiguous and not source.flags.c_contiguous
        header = self._header(
            source.shape, code, MajorOrder.COLUMN if is_column else MajorOrder.ROW
        )
        mapped = self._ready(timeout_s)
        seq = self._seq
        plan = self._begin(mapped, seq, header, source.nbytes)
        target = plan.writer.view(seq, plan.pool_index, source.shape, native, is_column)
        np.copyto(target, source, casting="equiv")
        captured_ns = monotonic_ns() if timestamp_ns is None else timestamp_ns
        self._commit(plan, seq, captured_ns, meta_version)
        self._seq = seq + 1
        if self._claims:
            self._claims[seq] = Committed(plan, meta_version, trace_id)
        else:
            self._describe(mapped.epoch, seq, meta_version, trace_id)
        return seq

    def _form_of(
        self, shape: int | tuple[int, ...], dtype: Any, order: str
    ) -> tuple[tuple[int, ...], np.dtype[np.generic], bool, bytes, int]:
        """Dimensions, element type, whether it is column-major, embedded header and bytes."""
        native: np.dtype[np.generic]
        if isinstance(dtype, Dtype):
            native, code = OCTETS, code_of(dtype)
        else:
            native, code = wire_dtype(dtype)
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        is_column = order == "F"
        header = self._header(dims, code, MajorOrder.COLUMN if is_column else MajorOrder.ROW)
        return dims, native, is_column, header, math.prod(dims) * native.itemsize

    def _begin(self, mapped: MappedEpoch, seq: int, header: bytes, nbytes: int) -> SlotPlan:
        """Take the slot of `seq`: from here on consumers know that it is being written."""
        if self._claims and seq - next(iter(self._claims)) >= mapped.nslots - 1:
            raise TooManyClaims(
                f"{seq - next(iter(self._claims))} frames wait for claim "
                f"{next(iter(self._claims))}, the ring has {mapped.nslots} slots: publish or "
                "abandon it first"
            )
        index, writer = self._pool_for(mapped, nbytes), self._writer
        assert writer is not None
        writer.begin(seq)
        return SlotPlan(mapped, writer, index, header, nbytes)

    def _commit(self, plan: SlotPlan, seq: int, timestamp_ns: int, meta_version: int) -> None:
        _, writer, index, header, nbytes = plan
        writer.body(seq, index, header, nbytes, timestamp_ns, meta_version, True)  # noqa: FBT003
        self.published += 1

    def _tell(self, seq: int, meta_version: int, trace_id: int) -> None:
        """Tell of a frame that the short way has committed and could not tell of."""
        self._describe(self.epoch, seq, meta_version, trace_id)

    def _describe(self, epoch: int, seq: int, meta_version: int, trace_id: int) -> None:
        self._described = seq
        self._outlet.send(self._lease.stream_id, epoch, seq, meta_version, trace_id)

    def _header(self, shape: tuple[int, ...], code: Dtype, order: MajorOrder) -> bytes:
        key = (shape, code, order)
        header = self._headers.get(key)
        if header is None:
            header = contiguous_header(shape, code, order)
            if len(self._headers) < _FORMS:
                self._headers[key] = header
        return header

    @staticmethod
    def _pool_for(mapped: MappedEpoch, nbytes: int) -> int:
        for index, pool in enumerate(mapped.pools):
            if pool.stride_bytes >= nbytes:
                return index
        strides = ", ".join(str(pool.stride_bytes) for pool in mapped.pools)
        raise FrameTooLarge(
            f"frame of {nbytes} bytes: the strides of stream {mapped.stream_id}'s pools are "
            f"{strides} bytes; add a larger pool to its profile"
        )

    # -- claims in flight -----------------------------------------------------------------

    def finish_claim(self, claim: ClaimedFrame) -> None:
        """For `ClaimedFrame.publish`: commit, and describe in the order of seq."""
        if self._finish_at_once(claim) is not None:
            return
        with self._user:
            claim.is_open = False
            claim.array.flags.writeable = False
            is_current = (
                self._version == self._lease.version
                and not self._is_closed
                and not self._keeper.is_forked
            )
            if (self._mapped if is_current else self._refresh()) is not claim.plan.mapped:
                raise LeaseLost(
                    f"stream {self.stream_id}: the lease ended while frame {claim.seq} was being "
                    "written"
                )
            self._commit(claim.plan, claim.seq, claim.timestamp_ns, claim.meta_version)
            if len(self._claims) == 1:
                del self._claims[claim.seq]
                self._describe(
                    claim.plan.mapped.epoch, claim.seq, claim.meta_version, claim.trace_id
                )
            else:
                self._flush()

    def abandon_claim(self, claim: ClaimedFrame) -> None:
        """For `ClaimedFrame.abandon`: take the seq back if it is the last one."""
        with self._user:
            claim.is_open, claim.is_abandoned = False, True
            claim.array.flags.writeable = False
            if self._mapped is not claim.plan.mapped:
                return
            while self._claims and self._is_abandoned(self._seq - 1):
                self._seq -= 1
                del self._claims[self._seq]
            self._flush()

    def _is_abandoned(self, seq: int) -> bool:
        claim = self._claims.get(seq)
        return claim is not None and claim.is_abandoned

    def _flush(self) -> None:
        """Describe what no earlier claim holds up any more."""
        claims = self._claims
        while claims:
            seq, claim = next(iter(claims.items()))
            if claim.is_open:
                return
            del claims[seq]
            if not claim.is_abandoned:
                self._describe(claim.plan.mapped.epoch, seq, claim.meta_version, claim.trace_id)

    def _report(
        self, plan: SlotPlan, seq: int, shape: tuple[int, ...], order: MajorOrder
    ) -> ProgressReport | None:
        """Begin to tell about a frame that is being written; its header must be there first."""
        policy, outlets = self._audience.policy, self._audience.progress_outlets
        major = shape[0] if order == MajorOrder.ROW else shape[-1]
        if policy is None or not outlets or not major:
            return None
        mapped = plan.mapped
        now_ns = monotonic_ns()
        plan.writer.body(seq, plan.pool_index, plan.header, plan.nbytes, now_ns, 0, False)  # noqa: FBT003
        frame = (self._lease.stream_id, mapped.epoch, seq)
        return ProgressReport(outlets, policy, frame, plan.nbytes, plan.nbytes // major)

    # -- readiness ------------------------------------------------------------------------

    def _ready(self, timeout_s: float | None) -> MappedEpoch:
        """The mapping to write to; on the fast path two comparisons."""
        if (
            self._version == self._lease.version
            and self._outlet.connection == self._keeper.connection
            and self._mapped is not None
        ):
            now_ns = monotonic_ns()
            if now_ns >= self._look_ns:
                self._look_ns = now_ns + _LOOK_NS
                self._mapped.require_whole()
            return self._mapped
        return self._become_ready(self._timeout_s if timeout_s is None else timeout_s)

    def _become_ready(self, timeout_s: float) -> MappedEpoch:
        deadline = monotonic_ns() + int(timeout_s * 1e9)
        while True:
            try:
                mapped = self._refresh()
            except ShmError:
                # Fail closed: the lease is dropped, the next one may have better regions.
                if monotonic_ns() >= deadline:
                    raise
                continue
            if mapped is None:
                self._await_lease(max(deadline - monotonic_ns(), 0) / 1e9)
                continue
            if self._outlet.connection == self._keeper.connection:
                return mapped
            try:
                self._outlet.connect()
            except MediaDriverLost:
                if monotonic_ns() >= deadline:
                    raise
                self._await_change(deadline)

    def _await_change(self, deadline_ns: int) -> None:
        """Until the keeper says anything new of this lease, a new connection included."""
        lease = self._lease
        with lease.changed:
            lease.changed.wait_for(
                lambda: lease.version != self._version,
                max(deadline_ns - monotonic_ns(), 0) / 1e9,
            )

    def _on_map(self) -> None:
        mapped = self._mapped
        assert mapped is not None
        self._writer = SlotWriter(
            mapped.ring,
            mapped.pool_memory,
            mapped.nslots,
            self._lease.stream_id,
            mapped.epoch,
            CODEC.header,
            encode_header,
            last_level_cache_bytes() or sys.maxsize,
        )
        self._seq = 0
        self._described = -1
        self._claims.clear()

    def _on_unmap(self) -> None:
        self._disarm()
        self._forms.clear()
        self._writer = None

    def _linger(self, linger_s: float) -> None:
        mapped = self._mapped
        if mapped is None or self._described < 0:
            return
        lease, last = self._lease, self._described
        deadline_ns = monotonic_ns() + int(linger_s * 1e9)
        while (
            monotonic_ns() < deadline_ns
            and lease.regions is not None
            and lease.regions.epoch == mapped.epoch
            and not self._audience.has_seen(mapped.epoch, last)
        ):
            with lease.changed:
                lease.changed.wait(_LINGER_LOOK_S)
