"""Host locks: one holder, named; a dead holder's children are waited for."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorpool.errors import HostError
from tensorpool.host_lock import HostLock, is_held
from tensorpool.pid_namespace import own_pid_namespace

_HOLD = """
import sys
from tensorpool.host_lock import HostLock
lock = HostLock(sys.argv[1], "test")
print("held", flush=True)
sys.stdin.read()
"""
# Its parent ends at once; what holds the lock then is a child that inherited the descriptor.
_LEAVE_CHILD = """
import subprocess, sys
from tensorpool.host_lock import HostLock
lock = HostLock(sys.argv[1], "test")
child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock.fd], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
"""


@contextlib.contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def leave_child(path: Path, seconds: float) -> int:
    """A process of that many seconds that holds the lock of a process that is gone; its pid."""
    command = [sys.executable, "-c", _LEAVE_CHILD, str(path), str(seconds)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@pytest.mark.clause("Driver §2.1-1")
def test_a_second_holder_is_refused_by_pid_without_waiting_for_a_living_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    with holder(path) as first:
        assert is_held(str(path))
        with pytest.raises(HostError, match=rf"the thing is in use .*pid {first.pid}"):
            HostLock(str(path), "the thing", wait_s=3600)
        assert path.exists()


def test_released_is_free_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = HostLock(str(path), "it")
    assert path.read_text() == f"{os.getpid()} {own_pid_namespace()}\n"
    lock.release()
    lock.release()
    assert not path.exists()
    assert not is_held(str(path))
    HostLock(str(path), "it").release()


def test_a_killed_holder_leaves_a_file_that_locks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as first:
        first.kill()
        first.wait()
        assert path.exists()
        assert not is_held(str(path))
        HostLock(str(path), "it").release()


def test_children_of_a_dead_holder_are_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    leave_child(path, seconds=0.2)
    HostLock(str(path), "it", wait_s=60).release()


def test_children_that_stay_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = leave_child(path, seconds=60)
    try:
        with pytest.raises(HostError, match=rf"is gone, but .*pid {child}\b"):
            HostLock(str(path), "it", wait_s=0.1)
    finally:
        os.kill(child, 9)


def test_a_planted_symlink_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="cannot open its lock file"):
        HostLock(str(path), "it")
    assert not (tmp_path / "elsewhere").exists()
