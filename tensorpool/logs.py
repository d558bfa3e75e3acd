"""Structured logs: readable on a terminal, JSON lines otherwise, ids as fields.

Standard logging with python-json-logger: importing structlog instead costs about 150 ms
in each of five processes (measured), half of what a host takes to be ready.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

from tensorpool.clock import NS_PER_S, monotonic_ns

TRACE = 5
LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, TRACE)
"""Python levels by TP_LOG_LEVEL: 0 ERROR, 1 WARN, 2 INFO, 3 DEBUG, 4 TRACE."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "process_role"}


class _TerminalFormatter(logging.Formatter):
    """`12:00:00.123 INFO  driver  lease attached  stream_id=10000 lease_id=1`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        role = getattr(record, "process_role", "")
        fields = "".join(f" {key}={value}" for key, value in _ids(record).items())
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {role:<12} "
            f"{record.getMessage()}{' ' if fields else ''}{fields}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _ids(record: logging.LogRecord) -> Mapping[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(process_role: str, level: int) -> None:
    """Send this process's log to standard error, at TP_LOG_LEVEL `level` (0..4)."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(_TerminalFormatter())
    else:
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - 30 ms, when needed

        handler.setFormatter(
            JsonFormatter(
                "%(levelname)s %(message)s",
                rename_fields={"levelname": "level"},
                static_fields={"process": process_role},
                timestamp=True,
            )
        )

    def tag(record: logging.LogRecord) -> bool:
        record.process_role = process_role
        return True

    if sys.stderr.isatty():
        handler.addFilter(tag)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: int) -> None:
    """Change the level (0..4) of this process's log."""
    logging.getLogger().setLevel(LEVELS[level])


class RateLimit:
    """At most one line per `period_ns` for what a peer could flood; tells how many were kept back.

    if (suppressed := limit.take()) is not None: log.warning(..., extra={"suppressed": suppressed})
    """

    def __init__(self, period_ns: int = NS_PER_S) -> None:
        self._period_ns = period_ns
        self._next_ns = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """How many were kept back since the last line, or None if this one must be too."""
        now = monotonic_ns()
        if now < self._next_ns:
            self._suppressed += 1
            return None
        self._next_ns = now + self._period_ns
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
