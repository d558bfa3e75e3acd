"""A received frame: a view of shared memory that the producer may overwrite at any time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tensorpool.client.errors import StaleFrame
from tensorpool.client.tensors import AnyArray
from tensorpool.shm.seqlock import load_acquire


class Frame:
    """One frame.

    Attributes:
        array: read-only view of the payload in shared memory, of the frame's shape and dtype.
        seq: sequence number within the epoch.
        epoch: the epoch that the frame belongs to.
        timestamp_ns: capture time as the producer gave it (by default CLOCK_MONOTONIC).
        meta_version: which metadata applies, 0 if none.
        trace_id: 0 if the frame is not traced.
    """

    __slots__ = (
        "_committed",
        "_word",
        "_words",
        "array",
        "epoch",
        "meta_version",
        "seq",
        "timestamp_ns",
        "trace_id",
    )

    def __init__(  # noqa: PLR0913 - one argument a field
        self,
        array: AnyArray,
        seq: int,
        epoch: int,
        timestamp_ns: int,
        meta_version: int,
        trace_id: int,
        words: memoryview,
        word: int,
        commit: int,
    ) -> None:
        self.array = array
        self.seq = seq
        self.epoch = epoch
        self.timestamp_ns = timestamp_ns
        self.meta_version = meta_version
        self.trace_id = trace_id
        self._words = words
        self._word = word
        self._committed = commit

    @property
    def valid(self) -> bool:
        """Whether the slot still holds this frame: what was read of it so far is whole."""
        return load_acquire(self._words, self._word) == self._committed

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The array's element type."""
        return self.array.dtype

    def copy(self) -> AnyArray:
        """A private copy, proven whole.

        Raises:
            StaleFrame: the producer has overwritten the slot meanwhile.
        """
        copied = self.array.copy(order="K")
        if not self.valid:
            raise StaleFrame(
                f"frame {self.seq}: overwritten while it was copied; a ring with more slots gives "
                "more time"
            )
        return copied

    def __array__(
        self,
        dtype: npt.DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        """The view itself, for `np.asarray(frame)`."""
        return np.array(self.array, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Frame(seq={self.seq}, shape={self.shape}, dtype={self.dtype}, epoch={self.epoch})"
