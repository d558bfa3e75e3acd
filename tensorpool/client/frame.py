"""A received frame: a view of shared memory that the producer may overwrite at any time.

    slot:   seq 8 | seq 9 | seq 10 | seq 11        the producer goes round and round
                    ▲ you read here        ▲ it writes here, and does not wait

A frame stays whole until the producer comes round to its slot: as many frames later as the ring
has slots. Then its bytes change under the view. What you have read is whole if the frame is still
valid *afterwards*: `copy` checks it for you, and so does the end of a `checked` block.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tensorpool.client.errors import StaleFrame
from tensorpool.client.hot import FrameState
from tensorpool.client.metadata import Metadata
from tensorpool.client.tensors import AnyArray

if TYPE_CHECKING:
    from tensorpool.client.consumer import Consumer

type _Device = tuple[int, int]
_DLPACK_READ_ONLY = (1, 0)
"""The first version of DLPack that can say that a tensor is read-only."""


class Frame(FrameState):
    """One frame. Keeps its memory mapped as long as it, or any view of it, lives.

    Attributes:
        array: read-only view of the payload in shared memory, of the frame's shape and dtype.
        layout: shape, strides in bytes, order and element type, as the header says them; the
            element type tells BYTES and BIT, which numpy sees as uint8.
        seq: sequence number within the epoch.
        epoch: the epoch that the frame belongs to.
        timestamp_ns: capture time as the producer gave it (by default CLOCK_MONOTONIC).
        published_ns: time of publication, None if the producer did not tell (Wire §10.2.1).
        meta_version: which metadata applies, 0 if none.
        trace_id: 0 if the frame is not traced.
        valid: whether the slot still holds this frame: what was read of it so far is whole.
    """

    __slots__ = ()

    _consumer: Consumer

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The array's element type."""
        return self.array.dtype

    @property
    def metadata(self) -> Metadata | None:
        """The metadata that applies, None if there is none or it was not heard yet."""
        return self._consumer.metadata_of(self.meta_version)

    def copy(self) -> AnyArray:
        """A private copy, proven whole.

        Raises:
            StaleFrame: the producer has overwritten the slot meanwhile, or somebody has cut the
                region's file.
        """
        self._require_region()
        copied = self.array.copy(order="K")
        if not self.valid:
            raise self._stale("copied")
        return copied

    def try_copy(self) -> AnyArray | None:
        """A private copy, proven whole; None if the producer has overwritten the slot meanwhile.

        Raises:
            StaleFrame: somebody has cut the region's file.
        """
        self._require_region()
        copied = self.array.copy(order="K")
        if self.valid:
            return copied
        self._consumer.count_stale()
        return None

    @contextmanager
    def checked(self) -> Iterator[AnyArray]:
        """The view, for a block at whose end it is proven that everything read was whole.

        Example::

            with frame.checked() as image:
                mean = image.mean()
            print(mean)        # here it is true

        Use nothing that was computed in the block before the block has ended.

        Raises:
            StaleFrame: the producer has overwritten the slot meanwhile. An exception of the
                block itself is not replaced; a note on it says that the frame was overwritten.
        """
        try:
            yield self.array
        except BaseException as error:
            if not self.valid:
                self._consumer.count_stale()
                error.add_note(f"frame {self.seq} was overwritten meanwhile: its data was torn")
            raise
        if not self.valid:
            raise self._stale("read")

    def _require_region(self) -> None:
        """To touch what was cut off is a SIGBUS (docs/security.md): ask before."""
        memory: object = self.array.base
        while memory is not None and not isinstance(memory, mmap.mmap):
            memory = memory.obj if isinstance(memory, memoryview) else getattr(memory, "base", None)
        if memory is not None and memory.size() < len(memory):
            raise StaleFrame(f"frame {self.seq}: its region's file was cut; its bytes are lost")

    def bits(self) -> AnyArray:
        """The bits of a BIT frame, proven whole: 0 and 1, eight for each octet along the last axis.

        The specification leaves the order of bits in an octet open; here the lowest comes first.

        Raises:
            StaleFrame: as `copy`.
        """
        self._require_region()
        unpacked = np.unpackbits(self.array.view(np.uint8), axis=-1, bitorder="little")
        if not self.valid:
            raise self._stale("unpacked")
        return unpacked

    def _stale(self, what: str) -> StaleFrame:
        self._consumer.count_stale()
        return StaleFrame(
            f"frame {self.seq}: overwritten while it was {what}; a ring with more slots gives "
            "more time"
        )

    # -- exchange with other libraries ----------------------------------------------------

    def __array__(
        self,
        dtype: npt.DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        """The view itself, for `np.asarray(frame)`."""
        return np.array(self.array, dtype=dtype, copy=copy)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: _Device | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The view for `torch.from_dlpack(frame)`, `jax.dlpack.from_dlpack(frame)` and the like.

        Nothing is copied unless `copy` asks for it. torch has no read-only tensors: *writing* to
        one that shares a frame's memory ends the process (SIGSEGV), since the pages are mapped
        read-only; clone it first. What the library computes is whole if the frame is valid
        afterwards.

        Raises:
            BufferError: the caller speaks a DLPack before 1.0, which cannot say "read-only";
                give it `frame.copy()`.
            StaleFrame: with `copy`, as in `copy`.
        """
        if copy:
            return _exporter(self.copy()).__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device
            )
        if max_version is None or max_version < _DLPACK_READ_ONLY:
            raise BufferError(
                "a frame is read-only, and the caller's DLPack is older than 1.0, which cannot say "
                "so: pass frame.copy(), or use a newer release of the library"
            )
        return _exporter(self.array).__dlpack__(
            stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self) -> _Device:
        """The host's memory: (1, 0)."""
        return self.array.__dlpack_device__()

    def __repr__(self) -> str:
        return f"Frame(seq={self.seq}, shape={self.shape}, dtype={self.dtype}, epoch={self.epoch})"


def _exporter(array: AnyArray) -> Any:
    """Numpy types the export for numbers only, but exports booleans as well."""
    return array
