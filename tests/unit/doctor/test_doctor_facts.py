"""What a configuration takes, and what the system's own files say."""

from dataclasses import replace
from pathlib import Path

import pytest

from tensorpool.config import to_settings
from tensorpool.config.load import validate
from tensorpool.doctor.cgroup import memory_limit
from tensorpool.doctor.examination import examine
from tensorpool.doctor.finding import Finding
from tensorpool.doctor.need import epoch_bytes, huge_pages, locked_bytes, log_bytes, need_of
from tensorpool.doctor.software import is_satisfied
from tensorpool.doctor.system import is_ipc_removed
from tensorpool.settings import EPOCHS_AHEAD, HostSettings


def settings(keep: int = 2) -> HostSettings:
    document: dict[str, object] = {
        "policies": {"epoch_gc_keep": keep},
        "profiles": {
            "p": {"header_nslots": 8, "payload_pools": [{"pool_id": 1, "stride_bytes": 4096}]}
        },
        "streams": {
            "a": {"stream_id": 1, "profile": "p"},
            "b": {"stream_id": 2, "profile": "p"},
        },
    }
    return to_settings(validate(document, {}).config)


def test_regions_of_the_kept_epochs_and_one_more() -> None:
    one = epoch_bytes(settings().profile("p"))
    assert one == 64 + 8 * 256 + 64 + 8 * 4096
    assert need_of(settings(3)).region_bytes - need_of(settings(2)).region_bytes == 2 * one
    assert need_of(settings(1)).region_bytes > 2 * 2 * one
    policies = replace(settings().policies, prepare_ahead_max_bytes=0)
    without_ahead = need_of(replace(settings(), policies=policies))
    assert need_of(settings()).region_bytes - without_ahead.region_bytes == 2 * EPOCHS_AHEAD * one
    assert locked_bytes(settings()) == 2 * 2 * one


def test_each_region_takes_whole_huge_pages() -> None:
    assert huge_pages(settings(2), 2 << 20) == 3 * 2 * 2
    assert huge_pages(settings(2), 4096) == 3 * 2 * (1 + 9)


def test_a_driver_keeps_a_descriptor_for_each_region_of_two_epochs() -> None:
    policies = replace(settings().policies, prepare_ahead_max_bytes=0)
    assert need_of(replace(settings(), policies=policies)).fds == 64 + 2 * (2 + 2)


def test_of_epochs_made_ahead_it_keeps_the_directories_as_well() -> None:
    assert need_of(settings()).fds == 64 + 2 * ((1 + EPOCHS_AHEAD) * 2 + EPOCHS_AHEAD)


@pytest.mark.parametrize(
    ("channel", "term"),
    [
        ("aeron:ipc?term-length=4m", 4 << 20),
        ("aeron:ipc?alias=x|term-length=64k", 64 << 10),
        ("aeron:ipc", 64 << 20),
        ("aeron:udp?endpoint=localhost:1", 16 << 20),
    ],
)
def test_a_log_has_three_terms(channel: str, term: int) -> None:
    assert log_bytes(channel) == 3 * term + 4096


@pytest.mark.parametrize(
    ("version", "clauses", "expected"),
    [
        ("2.5.5", ">=2", True),
        ("0.1.0", "<0.2,>=0.1", True),
        ("0.2.0", "<0.2,>=0.1", False),
        ("3.12.1", ">=3.12", True),
        ("3.9", ">=3.12", False),
        ("1.0", "==1", True),
        ("1.0rc1", "!=1.0", False),
        ("1.0", "", True),
    ],
)
def test_versions(version: str, clauses: str, expected: bool) -> None:
    assert is_satisfied(version, clauses) is expected


def proc_of(tmp_path: Path, cgroup: str, mounts: str) -> str:
    for name in ("self", "7"):
        (tmp_path / "proc" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc/7/cgroup").write_text(cgroup)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    return str(tmp_path / "proc")


def test_the_tightest_limit_of_version_2_counts(tmp_path: Path) -> None:
    tree = tmp_path / "cgroup"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "memory.max").write_text("1000\n")
    (tree / "a" / "b" / "memory.max").write_text("max\n")
    mounts = f"31 23 0:28 / {tree} rw - cgroup2 cgroup2 rw,nsdelegate\n"
    found = memory_limit(7, proc_of(tmp_path, "0::/a/b\n", mounts))
    assert found is not None
    assert (found.path, found.bytes) == (str(tree / "a"), 1000)


def test_version_1_as_a_container_sees_it(tmp_path: Path) -> None:
    tree = tmp_path / "memory"
    tree.mkdir()
    (tree / "memory.limit_in_bytes").write_text("2000\n")
    mounts = f"31 23 0:28 /docker/x {tree} rw - cgroup cgroup rw,memory\n"
    found = memory_limit(7, proc_of(tmp_path, "5:cpu:/\n4:memory:/docker/x\n", mounts))
    assert found is not None
    assert found.bytes == 2000


def test_no_limit(tmp_path: Path) -> None:
    tree = tmp_path / "memory"
    tree.mkdir()
    (tree / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    mounts = f"31 23 0:28 / {tree} rw - cgroup cgroup rw,memory\n"
    assert memory_limit(7, proc_of(tmp_path, "4:memory:/\n", mounts)) is None


def test_the_last_drop_in_decides(tmp_path: Path) -> None:
    weak, strong = tmp_path / "usr", tmp_path / "etc"
    assert is_ipc_removed((str(weak), str(strong)))
    for root, name, value in (
        (weak, "10-a", "no"),
        (strong, "20-b", "yes"),
        (strong, "10-a", "no"),
    ):
        (root / "logind.conf.d").mkdir(parents=True, exist_ok=True)
        (root / "logind.conf.d" / f"{name}.conf").write_text(f"[Login]\nRemoveIPC={value}\n")
    assert is_ipc_removed((str(weak), str(strong)))
    (strong / "logind.conf.d" / "20-b.conf").write_text("[Login]\nRemoveIPC=no\n")
    assert not is_ipc_removed((str(weak), str(strong)))


def test_what_cannot_be_examined_is_said(tmp_path: Path) -> None:
    def check_secrets(_: HostSettings) -> list[Finding]:
        return [Finding(*open(tmp_path / "missing"))]

    [found] = examine(settings(), (check_secrets,))  # type: ignore[arg-type]
    assert found.id == "not-examined"
    assert "secrets" in found.seen
