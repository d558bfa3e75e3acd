"""An array as a PNG file: a header, one compressed block and an end, by zlib alone.

An imaging library would be a dependency of many megabytes for these three chunks.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorpool.errors import TensorPoolError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
"""By channels: grey, grey and alpha, RGB, RGBA."""
_CHANNELS_LAST, _PLANE = 3, 2


class NoImage(TensorPoolError):
    """The array's shape is none of an image."""


class Image(NamedTuple):
    """`pixels` of shape (height, width, channels), uint8 or uint16; `scaled` from what range."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    scaled: tuple[float, float] | None


def as_image(array: npt.NDArray[np.generic]) -> Image:
    """Rows, columns and 1 to 4 channels of 8 or 16 bits.

    uint8 and uint16 stay as they are, booleans become black and white, anything else is
    scaled from its finite range to 0..255.

    Raises:
        NoImage: more dimensions than two and channels, or none.
    """
    planes = array.reshape(1, -1) if array.ndim == 1 else array
    if planes.ndim == _PLANE:
        planes = planes[..., np.newaxis]
    if planes.ndim != _CHANNELS_LAST or 0 in planes.shape:
        raise NoImage(_refusal(array))
    if planes.shape[2] not in _COLOUR_TYPE:
        if planes.shape[0] not in _COLOUR_TYPE:
            raise NoImage(_refusal(array))
        planes = np.moveaxis(planes, 0, 2)
    if planes.dtype == np.bool_:
        return Image(planes.astype(np.uint8) * np.uint8(255), None)
    if planes.dtype in (np.uint8, np.uint16):
        return Image(planes, None)  # type: ignore[arg-type]
    values = planes.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = high - low or 1.0
    scaled = np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    return Image((scaled.clip(0, 1) * 255).round().astype(np.uint8), (low, high))


def encode_png(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
) -> bytes:
    """The file's bytes for an image of `as_image`."""
    height, width, channels = pixels.shape
    depth = pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"))).view(np.uint8)
    # Each row begins with its filter: 0, none.
    filtered = np.zeros((height, 1 + width * channels * depth), np.uint8)
    filtered[:, 1:] = rows.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, _COLOUR_TYPE[channels], 0, 0, 0)
    return (
        _SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(filtered.tobytes()))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _refusal(array: npt.NDArray[np.generic]) -> str:
    shape = "x".join(map(str, array.shape))
    return (
        f"a frame of shape {shape} is no image; one has rows and columns, and perhaps 1 to 4 "
        "channels as its last or first dimension"
    )
