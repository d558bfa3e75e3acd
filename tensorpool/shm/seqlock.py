"""Single aligned 8-byte loads and stores with release and acquire order (Wire §8.3).

CPython's `memoryview.cast("Q")` moves one item with one 8-byte access; `struct` with an
explicit byte order writes byte by byte and must never touch `seq_commit`. x86-64 keeps
stores and loads in order by itself. Elsewhere a full fence is made from a lock: its
release orders everything before it, its acquire everything behind it.
"""

from __future__ import annotations

import platform
import sys
import threading

if sys.byteorder != "little":
    raise ImportError(
        "tensorpool.shm: this machine is big-endian, shared memory is little-endian (Wire §15.1); "
        "there is no way to use it here"
    )

COMMITTED = 1

if platform.machine() in {"x86_64", "AMD64"}:

    def _fence() -> None:
        """Nothing: the hardware orders stores with stores and loads with loads."""

else:

    def _fence() -> None:
        lock = threading.Lock()
        lock.acquire()
        lock.release()
        lock.acquire()


def store_release(words: memoryview, index: int, value: int) -> None:
    """`words[index] = value`, visible after every earlier store and before every later one.

    `words` is a memoryview of format "Q".
    """
    _fence()
    words[index] = value
    _fence()


def load_acquire(words: memoryview, index: int) -> int:
    """`words[index]`, read after every earlier load and before every later one."""
    _fence()
    value: int = words[index]
    _fence()
    return value


def in_progress(seq: int) -> int:
    """The commit word while the frame `seq` is being written."""
    return seq << 1


def committed(seq: int) -> int:
    """The commit word when the frame `seq` is whole."""
    return seq << 1 | COMMITTED
