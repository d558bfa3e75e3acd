"""Processes of a build, which end with the block that needs them."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

_END_S = 20.0


@contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` beside the block; at its end neither it nor a descendant is left.

    Args:
        command: program and arguments.
        environment: all of it.
        log: where standard error goes; nowhere if None.
    """
    with ExitStack() as files:
        errors = subprocess.DEVNULL if log is None else files.enter_context(log.open("ab"))
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
    """Ours, without what would lead a host of a build to another one's files."""
    others = {"TENSORPOOL_CONFIG", "AERON_DIR", "TP_LOG_LEVEL", "NOTIFY_SOCKET", "WATCHDOG_USEC"}
    return {name: value for name, value in os.environ.items() if name not in others}
