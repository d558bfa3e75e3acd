"""The notification protocol of systemd (`Type=notify-reload`): ready, watchdog, stopping.

One datagram each to the socket in NOTIFY_SOCKET. Written here because it is a dozen lines;
the packages that wrap it bring a C library or are no longer kept.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from tensorpool.clock import monotonic_ns

_log = logging.getLogger(__name__)


class ServiceManager:
    """Whoever started us, if it asked to be told.

    Attributes:
        watchdog_ns: how often `alive` must be called; 0: never.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # a name in the abstract namespace
            self._address = "\0" + self._address[1:]
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self.watchdog_ns = int(microseconds) * 500 if is_ours and microseconds.isdigit() else 0

    def ready(self, status: str) -> None:
        """The host is ready, again after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """SIGHUP was taken."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def alive(self) -> None:
        """The launcher's loop turns."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(0)
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("service manager not reachable", extra={"why": str(error)})
