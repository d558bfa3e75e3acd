"""The test pattern that `produce` writes and `consume` checks, byte by byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_PERIOD = 251
"""A prime, so that no power-of-two shift of the data goes unnoticed."""


def fill(target: npt.NDArray[np.generic], seq: int) -> None:
    """Write the pattern of frame `seq` into a C-contiguous array of any type."""
    flat = target.reshape(-1).view(np.uint8)
    flat[:] = expected(flat.size, seq)


def expected(nbytes: int, seq: int) -> npt.NDArray[np.uint8]:
    """The pattern of frame `seq`: byte i is (i + 7 * seq) modulo 251."""
    start = 7 * seq % _PERIOD
    ramp = np.arange(_PERIOD, dtype=np.uint8)
    cycle = np.concatenate((ramp[start:], ramp[:start]))
    return np.resize(cycle, nbytes)


def find_fault(frame: npt.NDArray[np.generic], seq: int) -> int | None:
    """Offset of the first byte that differs from the pattern, None if all agree."""
    flat = np.ascontiguousarray(frame).reshape(-1).view(np.uint8)
    differs = flat != expected(flat.size, seq)
    return int(differs.argmax()) if differs.any() else None
