"""One run: a producer and its consumers in processes of their own, through every phase."""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any

import psutil

from bench.peers import worker
from bench.peers.buses import BUSES
from bench.peers.ray_store import cluster
from bench.peers.transport import Run

KIB, MIB = 1 << 10, 1 << 20
SIZES = (4 * KIB, 64 * KIB, MIB, 8 * MIB)
_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE_S = 30.0


class RunFailedError(Exception):
    """A transport that cannot be measured, and why."""


def best_ring(nbytes: int) -> int:
    """As small as the consumer allows: large frames stay in the processor's cache."""
    if nbytes >= MIB:
        return 8
    return 64 if nbytes >= 64 * KIB else 512


def rate_hz(nbytes: int) -> float:
    """Frames a second of the paced phases."""
    return 100.0 if nbytes >= 8 * MIB else 1000.0


def config() -> str:
    """A profile and a stream for each size and ring."""
    lines = []
    for nbytes in SIZES:
        for ring in sorted({64, best_ring(nbytes)}):
            lines += [
                f"[profiles.f{nbytes}_{ring}]",
                f"header_nslots = {ring}",
                f"payload_pools = [{{ pool_id = 1, stride_bytes = {nbytes} }}]",
                f"[streams.f{nbytes}_{ring}]",
                f"stream_id = {stream_id(nbytes, ring)}",
                f'profile = "f{nbytes}_{ring}"',
            ]
    return "\n".join(lines) + "\n"


def stream_id(nbytes: int, ring: int) -> int:
    """The stream of a size and a ring."""
    return 11000 + 100 * SIZES.index(nbytes) + ring


def measure(
    name: str, nbytes: int, consumers: int, seconds: float, host: tuple[str, psutil.Process]
) -> dict[str, Any]:
    """Latency (one polling consumer, or several waiting ones), CPU, and rate.

    `host` is tensorpool's configuration and its process tree, whose CPU time is counted as well.

    Raises:
        RunFailedError: a side did not get ready, ended, or received nothing.
    """
    bus = BUSES[name]
    ring = bus.ring or bus.best_rings.get(nbytes) or best_ring(nbytes)
    tag = f"tpbench{os.getpid()}x{next(_numbers)}"
    run = Run(nbytes, consumers, ring, tag, host[0], stream_id(nbytes, ring))
    rate = min(rate_hz(nbytes), bus.most_hz)
    is_crowd = consumers > 1
    result: dict[str, Any] = {}
    with _shared(name, run) as shared, _sides(name, run, shared) as (receivers, sender):
        _phase(receivers, sender, rate, 0.3, blocking=bus.can_block)
        tree = host[1].children(recursive=True) if bus.is_ours else []
        paced = _phase(receivers, sender, rate, seconds, blocking=is_crowd)
        result["latency"] = _merged(paced)
        if bus.can_block:
            before = _cpu_s(tree)
            waiting = _phase(receivers, sender, rate, seconds, blocking=True)
            frames = max(waiting["sent"], 1)
            result["cpu"] = {
                "producer_us": waiting["cpu_s"] / frames * 1e6,
                "consumer_us": statistics.mean(
                    each["cpu_s"] / max(each["received"], 1) for each in waiting["consumers"]
                )
                * 1e6,
                "host_us": (_cpu_s(tree) - before) / frames * 1e6,
                "received": statistics.mean(each["received"] for each in waiting["consumers"]),
                "sent": waiting["sent"],
                **{k: v for k, v in _merged(waiting).items() if k.startswith("p")},
            }
        flood = _phase(receivers, sender, 0, seconds, blocking=False)
        rates = [
            each["received"] / each["seconds"]
            for each in flood["consumers"]
            if each["received"] > 1 and each["seconds"]
        ]
        result["rate"] = {
            "received_hz": statistics.mean(rates) if rates else 0.0,
            "sent_hz": flood["sent"] / flood["seconds"],
            "torn": sum(each["torn"] for each in flood["consumers"]),
        }
    return result


def _counter() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


_numbers = _counter()


def _cpu_s(tree: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in tree)


def _merged(phase: dict[str, Any]) -> dict[str, Any]:
    """Of several consumers the median one."""
    consumers = phase["consumers"]
    merged: dict[str, Any] = {
        "sent": phase["sent"],
        "received": statistics.mean(each["received"] for each in consumers),
        "torn": sum(each["torn"] for each in consumers),
    }
    if not all(each.get("p50") for each in consumers):
        raise RunFailedError("a consumer received nothing")
    for key in ("p50", "p99", "p99.9"):
        merged[key] = statistics.median(each[key] for each in consumers)
    return merged


def _phase(
    receivers: list[Connection], sender: Connection, rate: float, seconds: float, *, blocking: bool
) -> dict[str, Any]:
    for receiver in receivers:
        receiver.send((seconds, blocking))
    for receiver in receivers:
        _expect(receiver)
    sender.send((rate, seconds, blocking))
    phase: dict[str, Any] = _expect(sender, seconds)
    phase["consumers"] = [_expect(receiver, seconds) for receiver in receivers]
    return phase


def _expect(side: Connection, seconds: float = 0) -> Any:
    try:
        if side.poll(_PATIENCE_S + seconds):
            return side.recv()
    except (EOFError, OSError):
        raise RunFailedError("a process ended") from None
    raise RunFailedError("a process does not answer")


@contextmanager
def _sides(
    name: str, run: Run, shared: dict[str, Any]
) -> Iterator[tuple[list[Connection], Connection]]:
    processes, controls = [], []
    try:
        for index in range(run.consumers + 1):
            here, there = _SPAWN.Pipe()
            role = "send" if index == run.consumers else "receive"
            mine = Run(**{**run.__dict__, "shared": shared, "index": index})
            process = _SPAWN.Process(target=worker.main, args=(name, role, mine, there))
            process.start()
            there.close()
            processes.append(process)
            controls.append(here)
        for control in controls:
            _expect(control)
        yield controls[:-1], controls[-1]
        for control in controls:
            control.send("end")
        for process in processes:
            process.join(5)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


@contextmanager
def _shared(name: str, run: Run) -> Iterator[dict[str, Any]]:
    """What one parent has to make for both sides."""
    sender = BUSES[name].sender
    if "Queue" in sender:
        yield {"queues": [_SPAWN.Queue(4) for _ in range(run.consumers)]}
    elif sender.startswith("bench.peers.ray_store"):
        with cluster() as shared:
            yield shared
    elif sender.startswith("bench.peers.ring"):
        size = 64 + run.ring * run.nbytes
        memory = shared_memory.SharedMemory(name=run.tag, create=True, size=size)
        try:
            yield {
                "memory": run.tag,
                "pipes": [_SPAWN.Pipe(duplex=False) for _ in range(run.consumers)],
            }
        finally:
            memory.close()
            memory.unlink()
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        yield {"endpoint": f"tcp/127.0.0.1:{port}"}
        ipc = os.path.join(tempfile.gettempdir(), run.tag)
        if os.path.exists(ipc):
            os.unlink(ipc)
