"""numpy arrays as tensor headers, and back (Wire §8.2, §15.8)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorpool.shm.errors import TensorError
from tensorpool.shm.slot import encode_tensor_header, padded
from tensorpool.wire.control import MAX_DIMS, Dtype, MajorOrder, ProgressUnit, TensorHeader

type AnyArray = npt.NDArray[np.generic]

_NUMPY_OF: dict[int, np.dtype[np.generic]] = {
    Dtype.UINT8: np.dtype("u1"),
    Dtype.INT8: np.dtype("i1"),
    Dtype.UINT16: np.dtype("<u2"),
    Dtype.INT16: np.dtype("<i2"),
    Dtype.UINT32: np.dtype("<u4"),
    Dtype.INT32: np.dtype("<i4"),
    Dtype.UINT64: np.dtype("<u8"),
    Dtype.INT64: np.dtype("<i8"),
    Dtype.FLOAT32: np.dtype("<f4"),
    Dtype.FLOAT64: np.dtype("<f8"),
    Dtype.BOOLEAN: np.dtype("?"),
    Dtype.BYTES: np.dtype("u1"),
    Dtype.BIT: np.dtype("u1"),
}
OCTETS = np.dtype("u1")
"""What BYTES and BIT are seen as."""
_DTYPE_OF = {
    dtype: Dtype(code) for code, dtype in _NUMPY_OF.items() if code not in {Dtype.BYTES, Dtype.BIT}
}
_WIRE_OF = {dtype: (dtype, code) for dtype, code in _DTYPE_OF.items()}
"""The usual case, without a call into numpy."""
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


class TensorLayout(NamedTuple):
    """How a payload is to be seen.

    Attributes:
        dtype: numpy's element type; uint8 for BYTES and BIT.
        shape: elements along each dimension.
        strides: bytes from one element to the next along each dimension.
        nbytes: bytes from the first element to the end of the last.
        code: the element type as the header says it (Wire §15.8). BYTES: octets without a
            meaning of their own. BIT: each element is an octet of eight packed bits.
        order: which dimension varies slowest: the first (ROW) or the last (COLUMN).
        is_contiguous: whether the strides were left to be inferred.
        progress_unit: what `FrameProgress` counts for this frame (Wire §8.2).
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    nbytes: int
    code: Dtype
    order: MajorOrder
    is_contiguous: bool
    progress_unit: ProgressUnit


def wire_dtype(dtype: npt.DTypeLike) -> tuple[np.dtype[np.generic], Dtype]:
    """The little-endian numpy dtype and its code.

    Raises:
        TensorError: the registry of Wire §15.8 has no such element type.
    """
    if isinstance(dtype, np.dtype) and (known := _WIRE_OF.get(dtype)) is not None:
        return known
    try:
        native = np.dtype(dtype).newbyteorder("<")
    except TypeError as error:
        raise TensorError(f"dtype {dtype!r}: {error}") from None
    code = _DTYPE_OF.get(native)
    if code is None:
        names = ", ".join(sorted(str(d) for d in _DTYPE_OF))
        raise TensorError(f"dtype {np.dtype(dtype)} cannot be published; one of {names} can")
    return native, code


def contiguous_header(shape: tuple[int, ...], code: Dtype, order: MajorOrder) -> bytes:
    """The embedded header of a contiguous tensor: strides 0, to be inferred.

    Raises:
        TensorError: no dimension, more than 8, or one beyond int32.
    """
    if not 1 <= len(shape) <= MAX_DIMS:
        raise TensorError(
            f"shape {shape} has {len(shape)} dimensions, a frame has 1 to {MAX_DIMS}; "
            "reshape a scalar to (1,)"
        )
    if max(shape) > _INT32_MAX or min(shape) < 0:
        raise TensorError(f"shape {shape}: a dimension is beyond int32")
    return encode_tensor_header(
        TensorHeader(code, order, len(shape), 0, ProgressUnit.NONE, 0, padded(shape), padded(()))
    )


def layout_of(header: TensorHeader, values_len_bytes: int) -> TensorLayout:
    """What the payload of `values_len_bytes` bytes holds.

    Raises:
        TensorError: an unknown enum, bad dimensions, overlapping or contradicting strides,
            a wrong progress stride, or a tensor longer than its values (Wire §8.2, §15.8).
    """
    dtype = _NUMPY_OF.get(header.dtype)
    if dtype is None:
        raise TensorError(f"dtype code {header.dtype} is unknown")
    if header.major_order not in (MajorOrder.ROW, MajorOrder.COLUMN):
        raise TensorError(f"major order {header.major_order} is unknown")
    if not 1 <= header.ndims <= MAX_DIMS:
        raise TensorError(f"{header.ndims} dimensions, 1 to {MAX_DIMS} are allowed")
    shape = header.dims[: header.ndims]
    if min(shape) < 0:
        raise TensorError(f"negative dimension in {shape}")
    strides, span = _strides_and_span(header, shape, dtype.itemsize)
    if values_len_bytes and span > values_len_bytes:
        raise TensorError(f"tensor spans {span} bytes, the frame has {values_len_bytes}")
    _check_progress(header, strides)
    return TensorLayout(
        dtype,
        shape,
        strides,
        span,
        Dtype(header.dtype),
        MajorOrder(header.major_order),
        not any(header.strides[: header.ndims]),
        ProgressUnit(header.progress_unit),
    )


def _strides_and_span(
    header: TensorHeader, shape: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], int]:
    """Strides innermost first must grow without overlap; 0 stands for contiguous."""
    is_row = header.major_order == MajorOrder.ROW
    axes = range(len(shape) - 1, -1, -1) if is_row else range(len(shape))
    strides = [0] * len(shape)
    least, span = itemsize, itemsize
    for axis in axes:
        given = header.strides[axis]
        stride = given or least
        if stride < least:
            raise TensorError(
                f"strides {header.strides[: len(shape)]} overlap or contradict "
                f"{'row' if is_row else 'column'}-major order for shape {shape}"
            )
        strides[axis] = stride
        span += stride * max(shape[axis] - 1, 0)
        least = stride * max(shape[axis], 1)
    if least > _INT64_MAX:  # possible only beside a dimension of 0, which spans nothing
        raise TensorError(f"shape {shape} with strides {tuple(strides)} is beyond 64 bits")
    return tuple(strides), 0 if 0 in shape else span


def _check_progress(header: TensorHeader, strides: tuple[int, ...]) -> None:
    if header.progress_unit == ProgressUnit.NONE:
        return
    if header.progress_unit not in ProgressUnit:
        raise TensorError(f"progress unit {header.progress_unit} is unknown")
    by_rows = header.progress_unit == ProgressUnit.ROWS
    axis = 0 if by_rows else len(strides) - 1
    if header.progress_stride_bytes == 0 or header.progress_stride_bytes != strides[axis]:
        raise TensorError(
            f"progress stride {header.progress_stride_bytes} is not the true stride {strides[axis]}"
        )
