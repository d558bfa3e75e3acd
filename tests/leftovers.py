"""A pytest plugin: a session that leaves a process or a shared-memory file behind fails.

Processes are known by a mark in their environment, which every descendant inherits, whoever
its parent is by then; files by the session's pid in their name.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SHM = Path("/dev/shm")
MARK = "TENSORPOOL_TEST_SESSION"
# Time for a process that is about to end; one that runs on is reported however long it had.
GRACE_S = 2.0


def session_prefix() -> str:
    """How names in /dev/shm begin that belong to this session."""
    return f"tp-test-{os.getpid()}-"


def unique_shm_directory() -> Path:
    """Create a directory of this session's in /dev/shm."""
    # Not the `random` module: pytest-randomly seeds it alike for every test.
    path = SHM / f"{session_prefix()}{secrets.token_hex(6)}"
    path.mkdir(mode=0o700)
    return path


def marked_processes(mark: str) -> list[psutil.Process]:
    """Living processes, this one excepted, whose environment carries `mark`."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _carries(process, mark) and not _is_tracker(process)
    ]


def leftover_files(prefix: str) -> list[Path]:
    """What a session whose names begin so still has in /dev/shm."""
    return sorted(SHM.glob(f"{prefix}*"))


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:  # ended, a zombie, or another user's
        return False


def _is_tracker(process: psutil.Process) -> bool:
    """Whether it is multiprocessing's resource tracker, which ends with the process it serves."""
    try:
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return True


def describe(process: psutil.Process) -> str:
    """Pid and command line, as far as they can still be read."""
    with contextlib.suppress(psutil.Error):
        return f"process {process.pid}: {' '.join(process.cmdline())}"
    return f"process {process.pid}"


def sweep(mark: str, prefix: str) -> list[str]:
    """End and remove what is left of a session; say what that was.

    Args:
        mark: of its processes.
        prefix: of its names in /dev/shm.
    """
    _, left = psutil.wait_procs(marked_processes(mark), timeout=GRACE_S)
    found = [describe(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)
    for path in leftover_files(prefix):
        found.append(f"file {path}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


class LeftoverCheck:
    """Marks the session's processes at its start, looks for them at its end."""

    def __init__(self) -> None:
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._found: list[str] = []
        os.environ[MARK] = self._mark

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._found = sweep(self._mark, session_prefix())
        if self._found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._found:
            return
        terminalreporter.section("left behind by the tests: the session fails", red=True)
        for line in self._found:
            terminalreporter.line(line, red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftoverCheck(), "tensorpool-leftovers")


@pytest.fixture
def tmp_shm() -> Iterator[Path]:
    """A directory of the test's own in /dev/shm, removed with all that is in it at the end."""
    path = unique_shm_directory()
    yield path
    shutil.rmtree(path)
