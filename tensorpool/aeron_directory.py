"""The Aeron directory: whose it is, and what it takes.

Whoever owns it reads and writes every message in it.
"""

from __future__ import annotations

import os
import stat

from tensorpool.errors import HostError

COUNTER_VALUE_BYTES = 128
"""Of a counter, in its buffer of values (Aeron)."""
COUNTER_METADATA_BYTES = 512
"""Of a counter, in its buffer of types, keys and labels (Aeron)."""
_OTHER_BYTES = 8 << 20


def media_driver_files_bytes(max_counters: int) -> int:
    """Aeron's CnC file, mostly counters, and its loss report.

    With the default of 65,536 counters 47 MiB are measured.
    """
    return _OTHER_BYTES + max_counters * (COUNTER_VALUE_BYTES + COUNTER_METADATA_BYTES)


def require_own_directory(aeron_dir: str) -> None:
    """Refuse to start a media driver in what somebody else has put there; nothing is fine.

    Raises:
        HostError: it is a symlink or no directory, or belongs to another user.
    """
    try:
        info = os.lstat(aeron_dir)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(
            f"Aeron directory {aeron_dir} cannot be examined: {error.strerror}; set "
            "driver.aeron_dir or AERON_DIR to another"
        ) from error
    problem = None
    if not stat.S_ISDIR(info.st_mode):
        problem = "is a symlink or no directory; remove it"
    elif info.st_uid != os.geteuid():
        problem = (
            f"belongs to uid {info.st_uid}, we are uid {os.geteuid()}; remove it, or say that "
            "another user's media driver is meant by media_driver.embedded = false"
        )
    if problem is not None:
        raise HostError(
            f"Aeron directory {aeron_dir} {problem}, or set driver.aeron_dir or AERON_DIR to "
            "another"
        )
