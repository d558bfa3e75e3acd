"""`python -m bench.recovery [--rounds N]`: SIGKILL of each child, and how long users notice.

One producer at 1 kHz and three consumers, each a process of its own. Each round kills one
child and waits until the host is whole, every user has seen what there is to see of it, and
every user streams again. Two times a consumer and round:

    silence         the longest time between two frames since the kill
    first new frame from the kill to the frame that ended that silence; of a stream that was
                    not interrupted, the silence itself

Ends with status 1 if a user does not stream again, or if a lease, process or file is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from bench import progress
from bench.host import BenchHost, bench_host
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.config import load, to_settings
from tensorpool.launcher.host_file import read_host
from tensorpool.registry import RegistryReader
from tensorpool.settings import HostSettings
from tests.peers import Peer, Report, Silence, peers

VICTIMS = ("media_driver", "driver", "supervisor", "gc")
STREAM = 10000
CONSUMERS = 3
RATE_HZ = 1000
ROUNDS = 20
AGAIN = 1500
"""Frames until the next kill: long enough for the launcher to call the child steady."""
INTERRUPTED_NS = 50 * NS_PER_MS
"""A shorter silence is the scheduler's."""
DEADLINE_S = 30.0
_POLL_S = 0.01
_EVENT = {"driver": "lease_revoked", "media_driver": "media_driver_back"}


def main() -> None:
    """Kill every child for the rounds asked for, and print the times."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="kills of each child")
    rounds = parser.parse_args().rounds
    try:
        with bench_host() as host:
            measure(host, rounds)
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"bench.recovery: {error}")
    print("no lease, process or file left")


def measure(host: BenchHost, rounds: int) -> None:
    """All rounds of all victims on one host.

    Raises:
        RuntimeError: frames torn or out of order, or a broken header.
        TimeoutError: a user does not stream again, or a lease stays.
    """
    settings = to_settings(load(host.config, {}).config)
    with peers(host.config, STREAM, consumers=CONSUMERS, rate_hz=RATE_HZ) as (producer, consumers):
        users = [producer, *consumers]
        print(f"{rounds} kills each, {CONSUMERS} consumers; median and worst in ms")
        print(f"{'killed':<14}{'first new frame':>22}{'silence':>22}")
        for victim in VICTIMS:
            first, silent = [], []
            for _ in progress.rounds(rounds, f"kills of {victim}"):
                for killed_ns, silence in kill(settings, victim, users):
                    was_interrupted = silence.duration_ns >= INTERRUPTED_NS
                    recovered_ns = silence.ended_ns - killed_ns
                    first.append(recovered_ns if was_interrupted else silence.duration_ns)
                    silent.append(silence.duration_ns)
            print(f"{victim:<14}{_row(first):>22}{_row(silent):>22}", flush=True)
        broken = [r for r in _reports(users) if r.torn or r.disorder or r.drops_invalid]
        if broken:
            raise RuntimeError(f"frames torn, out of order or invalid: {broken}")
    _wait(lambda: not _active_leases(settings), lambda: f"{_active_leases(settings)} leases to end")


def kill(settings: HostSettings, victim: str, users: list[Peer]) -> Iterator[tuple[int, Silence]]:
    """One round; when the child was killed and what each consumer then noticed."""
    for user in users:
        user.report(reset_silence=True)
    before = _reports(users)
    former = _ready_pid(settings, victim)
    if former is None:
        raise RuntimeError(f"{victim} is not there before it is killed")
    killed_ns = monotonic_ns()
    os.kill(former, signal.SIGKILL)
    _wait(lambda: _ready_pid(settings, victim) not in (None, former), lambda: f"another {victim}")
    if event := _EVENT.get(victim):
        _wait(lambda: _have_grown(users, before, lambda r: r.events[event], 1), lambda: event)
    whole = _reports(users)
    _wait(
        lambda: _have_grown(users, whole, lambda r: r.frames, AGAIN),
        lambda: f"frames after a kill of {victim}: {_reports(users)}",
    )
    return ((killed_ns, consumer.report().silence) for consumer in users[1:])


def _reports(users: list[Peer]) -> list[Report]:
    return [user.report() for user in users]


def _have_grown(
    users: list[Peer], before: list[Report], count: Callable[[Report], int], by: int
) -> bool:
    return all(
        count(now) >= count(then) + by for now, then in zip(_reports(users), before, strict=True)
    )


def _ready_pid(settings: HostSettings, name: str) -> int | None:
    """The child's process, None while not every child serves."""
    report = read_host(settings.shm)
    if report is None or not report["ready"]:
        return None
    return next(item["pid"] for item in report["processes"] if item["name"] == name)


def _active_leases(settings: HostSettings) -> int:
    with RegistryReader(settings.shm.registry_path) as registry:
        return registry.active_leases


def _wait(is_done: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {DEADLINE_S:g} s in vain for {what()}")
        time.sleep(_POLL_S)


def _row(times_ns: list[int]) -> str:
    median, worst = statistics.median(times_ns) / NS_PER_MS, max(times_ns) / NS_PER_MS
    return f"{median:.1f} {worst:>9.1f}"


if __name__ == "__main__":
    main()
