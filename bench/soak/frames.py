"""What the frames of a soak hold: words that follow from the stream and the frame's number.

The number stands in the header (its timestamp), the words in the payload: whoever compares the
two notices a torn frame, another frame's payload and another stream's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_WORDS = 512
"""What the soak's payload slots of 4096 bytes hold."""
_STRIDE = 0x9E3779B97F4A7C15
_RAMP = np.arange(MOST_WORDS, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
_MASK = 2**64 - 1

type Words = npt.NDArray[np.uint64]


def words_of(number: int) -> int:
    """How many words frame `number` has: the sizes change all the time."""
    return 1 + number * 37 % MOST_WORDS


def content(stream_id: int, number: int) -> Words:
    """The payload of frame `number`."""
    first = np.uint64((number * _STRIDE ^ stream_id) & _MASK)
    return _RAMP[: words_of(number)] + first


def is_content(array: npt.NDArray[np.generic], stream_id: int, number: int) -> bool:
    """Whether this is the payload of frame `number`, whole."""
    return array.dtype == np.uint64 and np.array_equal(array, content(stream_id, number))
