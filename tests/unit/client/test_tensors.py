"""Tensor headers against numpy: what is published is seen alike, what is wrong is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool.client.tensors import contiguous_header, layout_of, wire_dtype
from tensorpool.shm.errors import TensorError
from tensorpool.shm.slot import decode_tensor_header, padded
from tensorpool.wire.control import Dtype, MajorOrder, ProgressUnit, TensorHeader

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "?"]
SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(tuple)


@given(shape=SHAPES, dtype=st.sampled_from(DTYPES), order=st.sampled_from("CF"))
def test_contiguous_layouts_agree_with_numpy(
    shape: tuple[int, ...], dtype: str, order: str
) -> None:
    array = np.zeros(shape, dtype, order=order)  # type: ignore[call-overload]
    native, code = wire_dtype(array.dtype)
    major = MajorOrder.ROW if order == "C" else MajorOrder.COLUMN
    header = decode_tensor_header(contiguous_header(shape, code, major))
    layout = layout_of(header, array.nbytes)
    assert (layout.dtype, layout.shape, layout.nbytes) == (native, shape, array.nbytes)
    assert layout.strides == array.strides


def test_big_endian_is_published_as_little_endian() -> None:
    assert wire_dtype(">f8") == (np.dtype("<f8"), Dtype.FLOAT64)


@pytest.mark.parametrize("dtype", ["f2", "c8", "U4", "O", "M8[ns]"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TensorError, match="cannot be published"):
        wire_dtype(dtype)


@pytest.mark.parametrize("shape", [(), (1,) * 9, (2**31,)])
def test_bad_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError):
        contiguous_header(shape, Dtype.UINT8, MajorOrder.ROW)


def header(**changes: object) -> TensorHeader:
    plain = TensorHeader(
        Dtype.UINT16, MajorOrder.ROW, 2, 0, ProgressUnit.NONE, 0, padded((3, 4)), padded((16, 2))
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def test_padded_rows_are_accepted() -> None:
    layout = layout_of(header(), 2 * 16 + 8)
    assert layout.strides == (16, 2)
    assert layout.nbytes == 40


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": 0},
        {"dtype": 12},
        {"dtype": 99},
        {"major_order": 0},
        {"major_order": 3},
        {"ndims": 0},
        {"ndims": 9},
        {"dims": padded((-1, 4))},
        {"strides": padded((4, 2))},  # rows overlap
        {"strides": padded((16, 1))},  # elements overlap
        {"strides": padded((-16, 2))},
        {"strides": padded((2, 16))},  # contradicts row-major
        {"progress_unit": ProgressUnit.ROWS, "progress_stride_bytes": 0},
        {"progress_unit": ProgressUnit.ROWS, "progress_stride_bytes": 8},
        {"progress_unit": 7, "progress_stride_bytes": 16},
    ],
)
@pytest.mark.clause("Wire §8.2-7", "Wire §8.2-11", "Wire §8.2-12", "Wire §15.8-1")
def test_broken_headers_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TensorError):
        layout_of(header(**changes), 1000)


def test_tensor_longer_than_its_values_is_refused() -> None:
    with pytest.raises(TensorError, match="spans 40 bytes"):
        layout_of(header(), 39)


@pytest.mark.clause("Wire §8.2-4")
def test_true_progress_stride_is_accepted() -> None:
    layout_of(header(progress_unit=ProgressUnit.ROWS, progress_stride_bytes=16), 40)


def test_an_empty_tensor_of_huge_dimensions_is_refused() -> None:
    """Found by fuzzing: numpy refuses such a view with an error that a consumer did not expect."""
    top = 2**31 - 1
    header = TensorHeader(
        Dtype.UINT8, MajorOrder.ROW, 4, 0, 0, 0, padded((0, top, top, top)), padded(())
    )
    with pytest.raises(TensorError, match="beyond 64 bits"):
        layout_of(header, 64)
    small = header._replace(dims=padded((0, top, 2, 2)))
    assert layout_of(small, 64).nbytes == 0
