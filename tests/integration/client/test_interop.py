"""Zero copies into other libraries: numpy always, torch and jax where they are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorpool
from tests.integration.host import STREAM


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def exchanged(pool: tensorpool.Pool, value: Any) -> tensorpool.Frame:
    with pool.consumer(STREAM) as view, pool.producer(STREAM) as camera:
        camera.publish(value)
        frame = view.next(10)
        assert frame is not None
        return frame


def test_numpy_shares_the_memory(pool: tensorpool.Pool) -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    frame = exchanged(pool, values)
    for array in (np.asarray(frame), np.from_dlpack(frame)):
        np.testing.assert_array_equal(array, values)
        assert address(array) == address(frame.array)
        assert not array.flags.writeable
    copied = np.from_dlpack(frame, copy=True)
    np.testing.assert_array_equal(copied, values)
    assert address(copied) != address(frame.array)
    assert frame.__dlpack_device__() == (1, 0)


def test_a_caller_that_cannot_be_told_read_only_is_refused(pool: tensorpool.Pool) -> None:
    frame = exchanged(pool, np.zeros(3))
    with pytest.raises(BufferError, match=r"frame\.copy"):
        frame.__dlpack__()


def test_torch_shares_the_memory(pool: tensorpool.Pool) -> None:
    torch = pytest.importorskip("torch")
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    for source in (values, values.t(), values[:, ::2], values > 3):
        frame = exchanged(pool, source)
        seen = torch.from_dlpack(frame)
        assert torch.equal(seen, source)
        assert seen.data_ptr() == address(frame.array)


def test_torch_tensors_that_cannot_be_published(pool: tensorpool.Pool) -> None:
    torch = pytest.importorskip("torch")
    with pool.producer(STREAM) as camera:
        with pytest.raises(tensorpool.TensorError, match="detach"):
            camera.publish(torch.zeros(3, requires_grad=True))
        with pytest.raises(tensorpool.TensorError, match="bfloat16"):
            camera.publish(torch.zeros(3, dtype=torch.bfloat16))


def test_jax_shares_the_memory(pool: tensorpool.Pool) -> None:
    jax = pytest.importorskip("jax")
    values = jax.numpy.arange(12, dtype=jax.numpy.float32).reshape(3, 4)
    frame = exchanged(pool, values)
    seen = jax.dlpack.from_dlpack(frame)
    assert (seen == values).all()
    assert seen.unsafe_buffer_pointer() == address(frame.array)
