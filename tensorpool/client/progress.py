"""Frames that are still being written: who is told, how often, and what may be read (Wire §10.2.2).

A producer reports how many bytes of a claimed frame are there. Only consumers that asked are
told; their hints are joined to one policy, the most frequent that any of them asks for, above a
floor of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tensorpool.aeron.client import Publication
from tensorpool.client.tensors import AnyArray, TensorLayout
from tensorpool.clock import monotonic_ns
from tensorpool.wire.codec import MESSAGE_HEADER
from tensorpool.wire.control import (
    CONTROL,
    ConsumerHello,
    FrameProgress,
    FrameProgressState,
    MajorOrder,
    ProgressUnit,
)

DEFAULT_INTERVAL_US = 250
DEFAULT_BYTES_DELTA = 65_536
MIN_INTERVAL_US = 100
MIN_BYTES_DELTA = 4096

_CODEC = CONTROL.by_type[FrameProgress]
_BLOCK = struct.Struct(_CODEC.block.format)


class ProgressHints(NamedTuple):
    """How often a consumer wants to hear of frames being written; None leaves it to the producer.

    Attributes:
        interval_us: least time between two reports of a frame, in microseconds.
        bytes_delta: least number of new bytes.
        major_delta_units: least number of new rows (row-major) or columns (column-major).
    """

    interval_us: int | None = None
    bytes_delta: int | None = None
    major_delta_units: int | None = None


class ProgressPolicy(NamedTuple):
    """How often a producer reports; `major_units` 0 knows no rows."""

    interval_ns: int
    bytes_delta: int
    major_units: int


def policy_of(hellos: Iterable[ConsumerHello]) -> ProgressPolicy | None:
    """The one policy for all consumers that want progress; None if none does."""
    wanting = [hello for hello in hellos if hello.supports_progress == 1]
    if not wanting:
        return None
    intervals = [h.progress_interval_us for h in wanting]
    deltas = [h.progress_bytes_delta for h in wanting]
    units = [h.progress_major_delta_units for h in wanting]
    return ProgressPolicy(
        1000 * max(min(_or_default(intervals, DEFAULT_INTERVAL_US)), MIN_INTERVAL_US),
        max(min(_or_default(deltas, DEFAULT_BYTES_DELTA)), MIN_BYTES_DELTA),
        min((unit for unit in units if unit), default=0),
    )


def _or_default(values: list[int | None], default: int) -> list[int]:
    return [default if value is None else value for value in values]


class ProgressReport:
    """What one frame's writer tells. For the producer's thread.

    Args:
        outlets: where consumers listen for it.
        policy: how often.
        frame: stream id, epoch and seq.
        nbytes: of the whole frame.
        major_stride: bytes of a row (row-major) or column (column-major).
    """

    __slots__ = ("_frame", "_last_ns", "_major_stride", "_nbytes", "_outlets", "_policy", "_told")

    def __init__(
        self,
        outlets: tuple[Publication, ...],
        policy: ProgressPolicy,
        frame: tuple[int, int, int],
        nbytes: int,
        major_stride: int,
    ) -> None:
        self._outlets = outlets
        self._policy = policy
        self._frame = frame
        self._nbytes = nbytes
        self._major_stride = major_stride
        self._told = 0
        self._last_ns = 0
        self._send(0, FrameProgressState.STARTED)

    def advance(self, nbytes_filled: int) -> None:
        """Tell that the first `nbytes_filled` bytes are written, if it is time to.

        Raises:
            ValueError: fewer than before, or more than the frame has.
        """
        if not self._told <= nbytes_filled <= self._nbytes:
            raise ValueError(
                f"{nbytes_filled} bytes filled: {self._told} were told already, the frame has "
                f"{self._nbytes}"
            )
        policy, grown = self._policy, nbytes_filled - self._told
        by_rows = policy.major_units and grown >= policy.major_units * self._major_stride
        if (grown >= policy.bytes_delta or by_rows) and (
            monotonic_ns() - self._last_ns >= policy.interval_ns
        ):
            self._send(nbytes_filled, FrameProgressState.PROGRESS)

    def complete(self) -> None:
        """The frame is committed."""
        self._send(self._nbytes, FrameProgressState.COMPLETE)

    def _send(self, nbytes_filled: int, state: FrameProgressState) -> None:
        self._told = nbytes_filled
        self._last_ns = monotonic_ns()
        message = _CODEC.header + _BLOCK.pack(*self._frame, nbytes_filled, state)
        for outlet in self._outlets:
            try:
                outlet.raw_offer(message)  # a hint: the next one, or the descriptor, says more
            except Exception:  # noqa: BLE001, S112 - closed by the keeper meanwhile
                continue


class PartialFrame(NamedTuple):
    """A frame while it is being written.

    Attributes:
        seq: its sequence number; the frame itself comes with the same one, if it comes.
        epoch: its epoch.
        state: STARTED, PROGRESS or COMPLETE. Even COMPLETE does not replace the frame.
        nbytes_filled: bytes written so far.
        layout: what the frame will be.
        array: read-only view of the rows (row-major) or columns (column-major) that are
            complete so far; empty if none is, or if the layout does not tell.
    """

    seq: int
    epoch: int
    state: FrameProgressState
    nbytes_filled: int
    layout: TensorLayout
    array: AnyArray


class ProgressGuard:
    """Judges what is heard: nothing regresses within a frame (Wire §10.2.2)."""

    def __init__(self) -> None:
        self._frame = (-1, -1)
        self._filled = -1
        self._state = FrameProgressState.UNKNOWN

    def accepts(self, message: FrameProgress) -> bool:
        """Whether the message goes on from what was heard of its frame before."""
        if message.state not in _STATES:
            return False
        frame = (message.epoch, message.seq)
        if frame == self._frame:
            if message.payload_bytes_filled < self._filled or message.state < self._state:
                return False
        elif frame < self._frame:
            return False
        self._frame = frame
        self._filled = message.payload_bytes_filled
        self._state = FrameProgressState(message.state)
        return True


_STATES = {
    FrameProgressState.STARTED,
    FrameProgressState.PROGRESS,
    FrameProgressState.COMPLETE,
}


def decode_progress(buffer: memoryview) -> FrameProgress | None:
    """The message if it is a FrameProgress of our schema's version, else None."""
    if len(buffer) != MESSAGE_HEADER.size + _BLOCK.size or buffer[:8] != _CODEC.header:
        return None
    return FrameProgress(*_BLOCK.unpack_from(buffer, MESSAGE_HEADER.size))


def complete_part(array: AnyArray, layout: TensorLayout, nbytes_filled: int) -> AnyArray:
    """The rows or columns of `array` that lie in its first `nbytes_filled` bytes.

    A prefix is safe to read if the layout is contiguous, or if it says what progress counts.
    """
    axis = 0 if layout.order == MajorOrder.ROW else len(layout.shape) - 1
    unit = ProgressUnit.ROWS if axis == 0 else ProgressUnit.COLUMNS
    is_told = layout.is_contiguous or layout.progress_unit == unit
    stride = layout.strides[axis]
    count = min(nbytes_filled // stride, layout.shape[axis]) if is_told and stride else 0
    part: AnyArray = array[:count] if axis == 0 else array[(*(np.s_[:],) * axis, np.s_[:count])]
    return part
