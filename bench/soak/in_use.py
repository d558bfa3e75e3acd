"""What a process has in use of the memory that its allocators took from the system.

A leak makes this grow. Private memory grows without one as well: for hours, ever more slowly,
allocators touch further pages of what they have, since live and free pieces lie side by side.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import NamedTuple


class InUse(NamedTuple):
    """Of one process.

    Attributes:
        malloc_bytes: handed out by the C library's malloc and not given back, or in the cache of
            a thread: `GLIBC_TUNABLES=glibc.malloc.tcache_count=0` makes it exact.
        blocks: handed out by Python's own allocator, for small objects, and not given back.
    """

    malloc_bytes: int
    blocks: int


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc; see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def collect_and_measure() -> InUse | None:
    """What is in use once garbage and the interpreter's free lists are gone.

    The free lists (2,000 tuples of each length and so on) are emptied by a full collection only,
    and where there is no cyclic garbage none ever comes by itself.

    Returns:
        None where the C library does not tell.
    """
    gc.collect()
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    return InUse(info.uordblks + info.hblkhd, sys.getallocatedblocks())
