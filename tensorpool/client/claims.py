"""A payload slot while its frame is being written in place."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from tensorpool.client.errors import ClaimOver
from tensorpool.client.frame_fields import meta_version_field, timestamp_field, trace_id_field
from tensorpool.client.hot import ClaimState, SlotWriter
from tensorpool.client.mapping import MappedEpoch
from tensorpool.client.progress import ProgressReport
from tensorpool.client.tensors import AnyArray

if TYPE_CHECKING:
    from tensorpool.client.producer import Producer


class SlotPlan(NamedTuple):
    """Where a claimed frame goes, and what its header will say."""

    mapped: MappedEpoch
    writer: SlotWriter
    pool_index: int
    header: bytes
    nbytes: int


class ClaimForm(NamedTuple):
    """What claims of one shape, element type and order have in common, in one epoch.

    Attributes:
        dims: the shape, a number a dimension.
        native: numpy's element type.
        is_column: column-major order.
    """

    plan: SlotPlan
    dims: tuple[int, ...]
    native: np.dtype[np.generic]
    is_column: bool


class Committed(NamedTuple):
    """A frame of `publish` whose descriptor waits for earlier claims."""

    plan: SlotPlan
    meta_version: int
    trace_id: int
    is_open: bool = False
    is_abandoned: bool = False


class ClaimedFrame(ClaimState):
    """A payload slot to be written in place: `Producer.claim` makes it.

    As a context manager it publishes at the end of the block, and abandons the slot if the
    block ends by an exception. Without one, call `publish` or `abandon` yourself: several
    claims may be in flight, and may end in any order. For the producer's thread.

    Attributes:
        array: writable view of the slot, of the claimed shape and dtype. Read-only once the
            frame is published; other views of it are not, so let go of them.
        seq: the frame's sequence number.

    `timestamp_ns`, `meta_version` and `trace_id` can be set until the frame is published.

    Raises:
        FrameFieldError: one of them is set to what is no integer of its range.
    """

    __slots__ = ()

    _producer: Producer
    _plan: SlotPlan
    _report: ProgressReport | None

    def __init__(  # noqa: PLR0913 - one argument a field
        self,
        producer: Producer,
        plan: SlotPlan,
        array: AnyArray,
        seq: int,
        timestamp_ns: int,
        meta_version: int,
        trace_id: int,
        report: ProgressReport | None,
    ) -> None:
        self._producer = producer
        self._plan = plan
        self._report = report
        self.array = array
        self.seq = seq
        self._timestamp_ns = timestamp_ns
        self._meta_version = meta_version
        self._trace_id = trace_id
        self.is_open = True
        self.is_abandoned = False

    @property
    def timestamp_ns(self) -> int:
        """Capture time (CLOCK_MONOTONIC); set it to override the time of the claim."""
        return self._timestamp_ns

    @timestamp_ns.setter
    def timestamp_ns(self, value: int) -> None:
        self._timestamp_ns = timestamp_field(value)

    @property
    def meta_version(self) -> int:
        """Which metadata applies; 0 for none."""
        return self._meta_version

    @meta_version.setter
    def meta_version(self, value: int) -> None:
        self._meta_version = meta_version_field(value)

    @property
    def trace_id(self) -> int:
        """0 for none."""
        return self._trace_id

    @trace_id.setter
    def trace_id(self, value: int) -> None:
        self._trace_id = trace_id_field(value)

    @property
    def plan(self) -> SlotPlan:
        """Where the frame goes."""
        return self._plan

    def progress(self, nbytes_filled: int) -> None:
        """Tell consumers that asked that the first `nbytes_filled` bytes are written.

        Call it as often as you like: it is sent as rarely as Wire §10.2.2 wants it, and costs
        next to nothing while nobody asks.

        Raises:
            ValueError: less than before, or more than the frame has.
            ClaimOver: the frame is published or abandoned.
        """
        self._check_open()
        if self._report is not None:
            self._report.advance(nbytes_filled)

    def publish(self) -> int:
        """Commit the frame and tell the consumers; its seq.

        Consumers hear of frames in the order of `seq`: of this one as soon as every earlier
        claim has ended.

        Raises:
            ClaimOver: it is published or abandoned already.
            LeaseLost: the lease ended since the claim; the frame is gone.
        """
        self._check_open()
        self._producer.finish_claim(self)
        if self._report is not None:
            self._report.complete()
        return self.seq

    def abandon(self) -> None:
        """Give the slot back unpublished; idempotent, and nothing after `publish`.

        If later frames were claimed or published meanwhile, consumers count this one as a gap.
        """
        if self.is_open:
            self._producer.abandon_claim(self)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abandon()
        elif self.is_open:
            self.publish()

    def _check_open(self) -> None:
        if not self.is_open:
            raise ClaimOver(f"frame {self.seq} was published or abandoned already: claim another")
