import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leftovers
from tests.support import wait_until

pytest_plugins = ["pytester"]


def test_wait_until_returns_what_the_predicate_gave() -> None:
    answers = iter([None, "", "there"])

    assert wait_until(lambda: next(answers), 60, "an answer") == "there"


def test_wait_until_says_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for the third state: 7"):
        wait_until(lambda: False, 0, lambda: f"the third state: {3 + 4}")


def test_wait_until_asks_at_least_once() -> None:
    assert wait_until(lambda: True, 0, "nothing")


def test_tmp_shm_is_private_and_this_sessions(tmp_shm: Path) -> None:
    assert tmp_shm.parent == Path("/dev/shm")
    assert tmp_shm.name.startswith(leftovers.session_prefix())
    assert tmp_shm.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_shm.iterdir())


def test_sweep_finds_a_process_whose_parent_is_gone() -> None:
    mark = f"orphan-of-{os.getpid()}"
    orphan_maker = "import subprocess; subprocess.Popen(['sleep', '600'])"
    environment = {**os.environ, leftovers.MARK: mark}
    subprocess.run([sys.executable, "-c", orphan_maker], env=environment, check=True)
    (orphan,) = leftovers.marked_processes(mark)

    # Of no files: this session's belong to fixtures that other tests are still to use.
    (found,) = leftovers.sweep(mark, f"tp-test-{mark}-")

    assert found == f"process {orphan.pid}: sleep 600"
    assert not leftovers.marked_processes(mark)


LITTER = """
import subprocess
from tests.leftovers import unique_shm_directory

def test_litters():
    subprocess.Popen(["sleep", "600"])
    (unique_shm_directory() / "region").write_bytes(b"x")
"""


@pytest.fixture
def other_session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Where another pytest session runs that can import this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return pytester


def test_a_session_that_leaves_things_behind_fails(other_session: pytest.Pytester) -> None:
    other_session.makepyfile(LITTER)

    result = other_session.runpytest_subprocess("-p", "tests.leftovers", "-W", "ignore")

    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*left behind by the tests*", "process *: sleep 600"])
    result.stdout.fnmatch_lines([f"file {leftovers.SHM}/tp-test-*"])


def test_a_clean_session_passes(other_session: pytest.Pytester) -> None:
    other_session.makepyfile("def test_is_clean(tmp_shm): (tmp_shm / 'region').write_bytes(b'x')")

    result = other_session.runpytest_subprocess("-p", "tests.leftovers")

    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
