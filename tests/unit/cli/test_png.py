"""Arrays as images: what is taken as it is, what is scaled, what is refused."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool.cli.png import NoImage, as_image, encode_png


def decoded(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Width, height, depth, colour type and unfiltered rows; every checksum verified."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [0, 0, 0]
    return width, height, depth, colour, zlib.decompress(chunks[1][1])


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(1, 0), (2, 4), (3, 2), (4, 6)]),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_whole_images_keep_every_bit(
    height: int, width: int, kind: tuple[int, int], dtype: Any
) -> None:
    channels, colour = kind
    array = np.arange(height * width * channels, dtype=dtype).reshape(height, width, channels)
    image = as_image(array)
    assert image.scaled is None
    found = decoded(encode_png(image.pixels))
    depth = 8 * array.itemsize
    assert found[:4] == (width, height, depth, colour)
    row = width * channels * array.itemsize
    for number in range(height):
        line = found[4][number * (row + 1) : (number + 1) * (row + 1)]
        assert line[0] == 0
        assert line[1:] == array[number].astype(array.dtype.newbyteorder(">")).tobytes()


def test_booleans_are_black_and_white() -> None:
    image = as_image(np.array([[True, False]]))
    assert image.pixels.ravel().tolist() == [255, 0]


def test_other_types_are_scaled_and_say_from_what() -> None:
    image = as_image(np.array([[-1.0, 0.0, np.nan], [1.0, np.inf, -np.inf]]))
    assert image.scaled == (-1.0, 1.0)
    assert image.pixels[..., 0].tolist() == [[0, 128, 0], [255, 255, 0]]
    assert as_image(np.full((2, 2), 7, np.int64)).pixels.max() == 0


def test_one_dimension_is_one_row_and_channels_may_come_first() -> None:
    assert as_image(np.zeros(5, np.uint8)).pixels.shape == (1, 5, 1)
    assert as_image(np.zeros((3, 5, 6), np.uint8)).pixels.shape == (5, 6, 3)


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (5, 6, 7), (0, 3)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(NoImage, match="is no image"):
        as_image(np.zeros(shape, np.uint8))
