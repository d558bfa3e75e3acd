"""What the processor's caches hold."""

from __future__ import annotations

import glob
import re
from functools import cache

_CACHES = "/sys/devices/system/cpu/cpu0/cache/index*/size"
_SIZE = re.compile(r"(\d+)([KMG]?)")
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


@cache
def last_level_cache_bytes(pattern: str = _CACHES) -> int | None:
    """Size of the largest cache of the first processor; None if the kernel does not say.

    As large as one core sees it: `sysconf` adds up those of a socket.
    """
    sizes = []
    for path in glob.glob(pattern):
        with open(path, encoding="ascii") as file:
            match = _SIZE.match(file.read())
        if match is not None:
            sizes.append(int(match[1]) << _SHIFTS[match[2]])
    return max(sizes, default=None)
