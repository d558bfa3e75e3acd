"""Processes of a build, which end with the block that needs them."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tensorpool.config import HostConfig
from tensorpool.config.tree import keys

_END_S = 20.0


@contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` beside the block; at its end neither it nor a descendant is left.

    Args:
        command: program and arguments.
        environment: all of it.
        log: where standard error goes.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            # A Ctrl-C is the build's: it ends what it started in order, here.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    tree: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(tree, timeout=_END_S)
    for child in left:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(left, timeout=_END_S)


def clean_environment() -> dict[str, str]:
    """Ours, without what would change a host of a build or lead it to another one's files."""
    of_a_host = {variable for key in keys(HostConfig) for variable in key.variables}
    others = of_a_host | {"TENSORPOOL_CONFIG", "AERON_DIR", "NOTIFY_SOCKET", "WATCHDOG_USEC"}
    # In a page an escape is no colour.
    others |= {"FORCE_COLOR", "TTY_COMPATIBLE"}
    return {name: value for name, value in os.environ.items() if name not in others}


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it can end its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
