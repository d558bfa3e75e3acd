"""The fixed ports of `[metrics]`: free, allowed, and on an address of this host."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.launcher.host_file import read_host
from tensorpool.settings import HostSettings

_IDS = {errno.EADDRINUSE: "port-taken", errno.EACCES: "port-denied"}


def check_ports(settings: HostSettings) -> Iterator[Finding]:
    """Each port that a process would listen on, unless our own host already does."""
    metrics = settings.metrics
    if not metrics.enabled:
        return
    ours = _own_ports(settings)
    for role, port in metrics.ports:
        if port in ours or (port == 0 and role != "launcher"):
            continue
        if role == "supervisor" and settings.supervisor is None:
            continue
        error = _refusal(metrics.bind_address, port)
        if error is None:
            continue
        finding_id = _IDS.get(error.errno or 0, "port-address")
        yield Finding(
            finding_id,
            Severity.ERROR,
            f"{metrics.bind_address} port {port} (metrics.ports.{role}): {error.strerror or error}",
            "each process listens on its port of [metrics]",
            _remedy(finding_id, role, port),
        )
        if finding_id == "port-address":
            return  # The address is the same for all.


def _remedy(finding_id: str, role: str, port: int) -> str:
    if finding_id == "port-taken":
        return (
            f"`ss -ltnp 'sport = :{port}'` tells who has it; free it, or set metrics.ports.{role} "
            "to another (0: any)"
        )
    if finding_id == "port-denied":
        return f"set metrics.ports.{role} to 1024 or above, or to 0"
    return "set metrics.bind_address to an address of this host, such as 127.0.0.1"


def _own_ports(settings: HostSettings) -> set[int]:
    host = read_host(settings.shm)
    if host is None:
        return set()
    urls = [host["metrics"], *(process["metrics"] for process in host["processes"])]
    return {port for url in urls if url and (port := urlsplit(url).port) is not None}


def _refusal(address: str, port: int) -> OSError | None:
    """Why nobody could listen there now, or None."""
    try:
        [(family, kind, protocol, _, target), *_] = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        return error
    return None
