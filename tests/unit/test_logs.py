"""What a log line looks like, and what keeps a flood of them back."""

import json
import logging
import os
import pty
import subprocess
import sys

import pytest

from tensorpool import logs
from tensorpool.clock import NS_PER_S
from tensorpool.logs import BackOff, FloodGuard, RateLimit, counted


class Clock:
    """A clock that stands until it is told to go."""

    now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(logs, "monotonic_ns", stopped)
    return stopped


_PROGRAM = (
    "import logging\n"
    "from tensorpool import logs\n"
    "logs.configure('driver', {level})\n"
    "log = logging.getLogger('x')\n"
    "log.info('lease attached', extra={{'stream_id': 7, 'lease_id': 1, 'client_id': 3}})\n"
    "log.warning('heard', extra={{'why': {why!r}}})\n"
    "log.debug('hidden')\n"
)
_ENVIRONMENT = {**os.environ, "TZ": "UTC"}


def program(why: str = "a b", level: int = 2) -> list[str]:
    return [sys.executable, "-c", _PROGRAM.format(why=why, level=level)]


def test_json_lines_where_nobody_watches() -> None:
    done = subprocess.run(
        program("line\nbreak"), capture_output=True, text=True, check=True, env=_ENVIRONMENT
    )
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert first.pop("timestamp")
    assert first == {
        "level": "INFO",
        "message": "lease attached",
        "process": "driver",
        "stream_id": 7,
        "lease_id": 1,
        "client_id": 3,
    }
    assert second["why"] == "line\nbreak"


def on_terminal(command: list[str]) -> str:
    terminal, end = pty.openpty()
    with subprocess.Popen(command, stderr=end, env=_ENVIRONMENT) as process:
        os.close(end)
        written = b""
        try:
            while data := os.read(terminal, 4096):
                written += data
        except OSError:
            pass
        os.close(terminal)
        assert process.wait() == 0
    return written.decode()


def test_readable_lines_on_a_terminal() -> None:
    first, second = on_terminal(program()).splitlines()
    assert first.endswith("lease attached  stream_id=7 lease_id=1 client_id=3")
    assert " INFO " in first
    assert " driver " in first
    assert second.endswith('why="a b"')


def test_what_a_peer_sent_cannot_write_on_the_terminal() -> None:
    text = on_terminal(program("\x1b[2Jgone\nINFO forged"))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_the_level_decides() -> None:
    lines = on_terminal(program(level=3)).splitlines()
    assert lines[-1].endswith("hidden ") or lines[-1].endswith("hidden")
    assert len(lines) == 3


def test_a_rate_limit_counts_what_it_keeps_back(clock: Clock) -> None:
    limit = RateLimit(NS_PER_S)
    assert limit.take() == 0
    assert [limit.take() for _ in range(5)] == [None] * 5
    clock.now_ns += NS_PER_S
    assert limit.take() == 5
    clock.now_ns += NS_PER_S
    assert limit.take() == 0


def test_a_back_off_doubles_up_to_its_longest_wait_and_starts_anew(clock: Clock) -> None:
    limit = BackOff(NS_PER_S, 4 * NS_PER_S)
    written = []
    for second in range(20):
        if limit.take() is not None:
            written.append(second)
        clock.now_ns += NS_PER_S
    assert written == [0, 1, 3, 7, 11, 15, 19]
    limit.reset()
    assert limit.take() == 0


def test_nothing_is_said_of_nothing() -> None:
    assert counted(0) == {}
    assert counted(3) == {"suppressed": 3}


def record(level: int = logging.INFO, line: int = 1) -> logging.LogRecord:
    return logging.LogRecord("x", level, "file.py", line, "text", None, None)


def test_the_flood_guard_lets_a_burst_pass_and_then_a_trickle(clock: Clock) -> None:
    guard = FloodGuard(burst=10, rate=2)
    assert sum(guard.filter(record()) for _ in range(1000)) == 10
    assert guard.filter(record(line=2)), "each line of code has an allowance of its own"
    clock.now_ns += NS_PER_S
    passed = [item for item in (record() for _ in range(100)) if guard.filter(item)]
    assert len(passed) == 2
    assert vars(passed[0])["suppressed"] == 990
    assert "suppressed" not in vars(passed[1])
    clock.now_ns += 100 * NS_PER_S
    assert sum(guard.filter(record()) for _ in range(1000)) == 10


def test_the_flood_guard_adds_to_what_a_limit_has_counted(clock: Clock) -> None:
    guard = FloodGuard(burst=1, rate=1)
    assert guard.filter(record())
    assert not guard.filter(record())
    clock.now_ns += NS_PER_S
    last = record()
    last.suppressed = 4
    assert guard.filter(last)
    assert vars(last)["suppressed"] == 5


def test_who_asks_for_details_gets_them_all(clock: Clock) -> None:
    guard = FloodGuard(burst=1, rate=1)
    assert all(guard.filter(record(logging.DEBUG)) for _ in range(100))
