"""How far `tensorpool up` is with large pools, on a terminal.

Whole lines, a few a second at most, not one line redrawn: five processes write their logs to
the same terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from types import TracebackType
from typing import Self

from tensorpool.settings import HostSettings
from tensorpool.shm.paths import stream_dir

SHOWN_FROM_BYTES = 256 << 20
"""Less is made in the blink of an eye."""
_PERIOD_S = 0.5
_WIDTH = 30
_BLOCK_BYTES = 512
_GIB = 1 << 30


class ProvisionProgress:
    """While entered, tells on standard error how much of the static streams' epochs is made.

    Nothing is told unless standard error is a terminal and there is much to make.
    """

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._since = time.time()
        self._total = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not sys.stderr.isatty():
            return self
        self._total = first_epochs_bytes(self._settings)
        if self._total >= SHOWN_FROM_BYTES:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        shown = None
        while True:
            made = min(made_bytes(self._settings, self._since), self._total)
            text = bar(made, self._total)
            if text != shown:
                with contextlib.suppress(OSError):  # The terminal may be gone; the host runs on.
                    sys.stderr.write(f"{text}\n")
                shown = text
            if made == self._total or self._stop.wait(_PERIOD_S):
                return


def first_epochs_bytes(settings: HostSettings) -> int:
    """Bytes of one epoch of every static stream."""
    from tensorpool.doctor.need import epoch_bytes  # noqa: PLC0415 - on a terminal only

    return sum(epoch_bytes(settings.profile(stream.profile)) for stream in settings.streams)


def made_bytes(settings: HostSettings, since: float) -> int:
    """Memory that files of static streams take which were made after `since` (wall clock)."""
    made = 0
    for stream in settings.streams:
        for parent, _, names in os.walk(stream_dir(settings.shm.namespace_dir, stream.stream_id)):
            for name in names:
                with contextlib.suppress(OSError):  # renamed into place, or deleted
                    info = os.lstat(os.path.join(parent, name))
                    if info.st_ctime >= since:
                        made += info.st_blocks * _BLOCK_BYTES
    return made


def bar(made: int, total: int) -> str:
    """One line: a bar, per cent and sizes."""
    filled = _WIDTH * made // total
    return (
        f"shared memory [{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * made // total:3d} %  "
        f"{made / _GIB:.2f} of {total / _GIB:.2f} GiB"
    )
