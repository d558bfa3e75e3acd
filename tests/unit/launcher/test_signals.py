"""Signals as events, and orphans reaped as process 1."""

import multiprocessing.connection
import os
import signal
import subprocess
import sys

from tensorpool.launcher.signals import SignalQueue

_AS_INIT = """
import ctypes, os, subprocess, sys
from tensorpool.launcher.signals import reap_orphans
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
# A shell that ends at once and leaves a child behind: it becomes ours.
orphan = int(subprocess.run(["sh", "-c", "sleep 0.05 >/dev/null & echo $!"], stdout=-1).stdout)
own = subprocess.Popen(["true"])
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
assert os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT).si_pid == orphan
reap_orphans({own.pid})
assert own.wait() == 0, "our own child was left to its owner"
reap_orphans(set())
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
except ChildProcessError:
    sys.exit(0)
sys.exit("an orphan was left")
"""


def test_signals_wake_a_wait_and_come_in_order() -> None:
    with SignalQueue() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert multiprocessing.connection.wait([signals.fileno()], 10)
        assert signals.take() == [signal.SIGHUP, signal.SIGUSR1]
        assert signals.take() == []


def test_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with SignalQueue():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_orphans_are_reaped_and_own_children_are_not() -> None:
    done = subprocess.run([sys.executable, "-c", _AS_INIT], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
