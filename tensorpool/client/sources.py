"""Anything that holds an array, as numpy sees it: without a copy wherever that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorpool.client.tensors import AnyArray, wire_dtype
from tensorpool.shm.errors import TensorError
from tensorpool.wire.control import Dtype

_HOST_DEVICES = {1, 3}
"""DLPack's kDLCPU and kDLCUDAHost: memory that this process can read."""
_OCTETS = {Dtype.BYTES, Dtype.BIT}


def as_source(value: Any, dtype: Dtype | None = None) -> tuple[AnyArray, Dtype]:
    """`value` as an array, and the code of its element type.

    numpy arrays, DLPack objects (torch, jax, ...) in host memory, and buffers are seen in place;
    bytes and bytearrays are one-dimensional BYTES; everything else becomes an array of numpy's.

    Args:
        value: what to publish.
        dtype: BYTES or BIT, to tell octets of that meaning; None: as the array says.

    Raises:
        TensorError: nothing of it, or not its element type, can be published (Wire §15.8).
    """
    if isinstance(value, bytes | bytearray):
        return np.frombuffer(value, np.uint8), code_of(Dtype.BYTES if dtype is None else dtype)
    array = value if isinstance(value, np.ndarray) else _imported(value)
    if dtype is None:
        return array, wire_dtype(array.dtype)[1]
    if array.dtype != np.uint8:
        raise TensorError(f"{dtype.name} is told of uint8 arrays, this one has {array.dtype}")
    return array, code_of(dtype)


def code_of(dtype: Dtype) -> Dtype:
    """`dtype` if it is one of those that numpy has no type for. Raises TensorError if not."""
    if dtype not in _OCTETS:
        raise TensorError(
            f"dtype={dtype!r}: BYTES and BIT only; numpy's types speak for themselves"
        )
    return Dtype(dtype)


def _imported(value: Any) -> AnyArray:
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, BufferError) as error:
        raise TensorError(f"{type(value).__name__} is no array: {error}") from None


def _from_dlpack(value: Any) -> AnyArray:
    device_type, device_id = value.__dlpack_device__()
    if int(device_type) not in _HOST_DEVICES:
        raise TensorError(
            f"this {type(value).__name__} lies on DLPack device {int(device_type)}:{device_id}; "
            "bring it to the host first (torch: .cpu(), jax: jax.device_get)"
        )
    try:
        array: AnyArray = np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise TensorError(
            f"this {type(value).__name__} of {getattr(value, 'dtype', 'unknown dtype')} cannot be "
            f"seen as an array: {error}"
        ) from None
    return array
