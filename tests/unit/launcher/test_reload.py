"""What SIGHUP may change, judged on whole configurations."""

from pathlib import Path
from typing import Any

import pytest

from tensorpool.config import load
from tensorpool.launcher.reload import changed_keys, refused_keys


def tables(tmp_path: Path, change: str = "", *, supervisor: str = "[supervisor]\n") -> Any:
    file = tmp_path / "config.toml"
    file.write_text(
        """
[shm]
base_dir = "/dev/shm/tp-reload"
[profiles.default]
header_nslots = 8
payload_pools = [{ pool_id = 1, stride_bytes = 4096 }]
[streams.cam1]
stream_id = 10000
profile = "default"
"""
        + supervisor
        + change
    )
    return load(str(file), {}).config.model_dump()


def replaced(tmp_path: Path, old: str, new: str) -> Any:
    file = tmp_path / "config.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return load(str(file), {}).config.model_dump()


def test_nothing_changed(tmp_path: Path) -> None:
    assert changed_keys(tables(tmp_path), tables(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (
            '[streams.cam2]\nstream_id = 10001\nprofile = "default"\n',
            ["streams.cam2.stream_id", "streams.cam2.profile"],
        ),
        (
            '[streams."a.b"]\nstream_id = 10001\nprofile = "default"\n',
            ["streams.a.b.stream_id", "streams.a.b.profile"],
        ),
        (
            "[profiles.big]\npayload_pools = [{ pool_id = 1, stride_bytes = 8192 }]\n",
            ["profiles.big.header_nslots", "profiles.big.payload_pools"],
        ),
        ("[logging]\nlevel = 4\n", ["logging.level"]),
    ],
)
def test_additions_and_the_log_level_are_taken(
    tmp_path: Path, change: str, keys: list[str]
) -> None:
    old, new = tables(tmp_path), tables(tmp_path, change)
    assert changed_keys(old, new) == keys
    assert refused_keys(old, new) == []


@pytest.mark.parametrize(
    "line",
    ["force_no_shm = true", "consumer_stale_ms = 100", "force_mode = 1", "consumer_capacity = 7"],
)
def test_supervisor_policies_are_taken(tmp_path: Path, line: str) -> None:
    old = tables(tmp_path)
    new = tables(tmp_path, supervisor=f"[supervisor]\n{line}\n")
    assert changed_keys(old, new) == [f"supervisor.{line.partition(' ')[0]}"]
    assert refused_keys(old, new) == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("[driver]\ncontrol_stream_id = 77\n", "driver.control_stream_id"),
        ("[policies]\nlease_keepalive_interval_ms = 77\n", "policies.lease_keepalive_interval_ms"),
        ("[launcher]\nhang_timeout_ms = 77\n", "launcher.hang_timeout_ms"),
        ('[policies]\nshutdown_token = "x"\n', "policies.shutdown_token"),
        ("[metrics]\nenabled = true\n", "metrics.enabled"),
        ("[metrics.ports]\ndriver = 77\n", "metrics.ports.driver"),
    ],
)
def test_the_rest_is_refused_by_name(tmp_path: Path, change: str, key: str) -> None:
    assert key in refused_keys(tables(tmp_path), tables(tmp_path, change))


def test_a_changed_stream_is_refused(tmp_path: Path) -> None:
    old = tables(tmp_path)
    new = replaced(tmp_path, "stream_id = 10000", "stream_id = 10002")
    assert refused_keys(old, new) == ["streams.cam1.stream_id"]


def test_a_removed_stream_is_refused(tmp_path: Path) -> None:
    old = tables(tmp_path, '[streams.cam2]\nstream_id = 10001\nprofile = "default"\n')
    assert refused_keys(old, tables(tmp_path)) == [
        "streams.cam2.stream_id",
        "streams.cam2.profile",
    ]


def test_a_changed_profile_is_refused(tmp_path: Path) -> None:
    old = tables(tmp_path)
    new = replaced(tmp_path, "header_nslots = 8", "header_nslots = 16")
    assert refused_keys(old, new) == ["profiles.default.header_nslots"]


def test_supervisor_endpoints_are_refused(tmp_path: Path) -> None:
    old = tables(tmp_path)
    new = tables(tmp_path, supervisor="[supervisor]\nqos_stream_id = 1234\n")
    assert refused_keys(old, new) == ["supervisor.qos_stream_id"]


def test_a_supervisor_that_comes_or_goes_is_refused(tmp_path: Path) -> None:
    without, present = tables(tmp_path, supervisor=""), tables(tmp_path)
    assert refused_keys(without, present)
    assert refused_keys(present, without)
