"""The environment: names from the model tree, precedence, parsing, origins, faults."""

import os
import pwd
from collections.abc import Callable

import pytest

from tensorpool.config.environment import default_aeron_dir
from tensorpool.config.operations import HostConfig
from tensorpool.config.tree import Key, keys, kind_of
from tests.unit.config.documents import accepted, faults_of, only_fault

SUPERVISOR = "[supervisor]\n"
TWO_STREAMS = """
[streams.cam-a]
stream_id = 1
profile = "camera"
[streams.cam_a]
stream_id = 2
profile = "camera"
"""


def static_keys() -> list[Key]:
    return list(keys(HostConfig))


def test_every_variable_stands_for_one_key() -> None:
    owners: dict[str, Key] = {}
    for key in static_keys():
        for name in key.variables:
            assert name not in owners, (key.path, owners[name].path)
            owners[name] = key
    assert owners["DRIVER_CONTROL_STREAM_ID"].path == ("driver", "control_stream_id")
    assert owners["METRICS_PORTS_MEDIA_DRIVER"].path == ("metrics", "ports", "media_driver")
    assert owners["AERON_DIR"].path == ("driver", "aeron_dir")


@pytest.mark.clause("Driver §17-2")
def test_names_are_table_and_key_in_upper_case() -> None:
    special = {("driver", "aeron_dir"), ("logging", "level")}
    for key in static_keys():
        if key.path not in special:
            assert key.variables == ("_".join(key.path).upper(),)


def test_no_two_tables_can_be_confused_by_the_underscore() -> None:
    # MEDIA_DRIVER_… and DRIVER_… end alike; a walk of the tree keeps them apart.
    loaded = accepted(environ={"MEDIA_DRIVER_EMBEDDED": "false", "DRIVER_INSTANCE_ID": "x"})
    assert loaded.config.media_driver.embedded is False
    assert loaded.config.driver.instance_id == "x"


OF_TYPE = {
    "integer": "7",
    "boolean": "true",
    "string": "text",
    "string or array": "5-9",
    "array of strings": "/a,/b",
}
# Where a value of the type is not one of the key.
OF_KEY = {
    "aeron_dir": "/a",
    "base_dir": "/dev/shm/tensorpool",
    "allowed_base_dirs": "/dev/shm",
    "default_profile": "camera",
    "permissions_mode": "600",
    "page_size_bytes": "8192",
    "threading": "dedicated",
    "idle_strategy": "busy_spin",
    "bind_address": "::1",
    "discovery_file": "/run/x/targets.json",
    "force_mode": "1",
    "level": "4",
    "payload_fallback_uri": "bridge://x",
    "client_liveness_timeout_ms": "1900",
    "publication_unblock_timeout_ms": "9000",
    "untethered_window_limit_timeout_ms": "900",
    "max_counters": "131072",
    "untethered_linger_timeout_ms": "900",
    "untethered_resting_timeout_ms": "900",
    "restart_backoff_max_ms": "9000",
}
# Variables without which the key alone would break a rule.
WITH = {
    "per_consumer_descriptor_base": {"SUPERVISOR_PER_CONSUMER_DESCRIPTOR_RANGE": "1"},
    "per_consumer_descriptor_range": {"SUPERVISOR_PER_CONSUMER_DESCRIPTOR_BASE": "1"},
    "per_consumer_control_base": {"SUPERVISOR_PER_CONSUMER_CONTROL_RANGE": "1"},
    "per_consumer_control_range": {"SUPERVISOR_PER_CONSUMER_CONTROL_BASE": "1"},
    "allow_dynamic_streams": {"DRIVER_STREAM_ID_RANGE": "20-29"},
}


@pytest.mark.clause("Driver §17-3")
@pytest.mark.parametrize("key", static_keys(), ids=lambda key: ".".join(key.path))
def test_each_variable_overrides_the_file(key: Key) -> None:
    table, name = ".".join(key.path[:-1]), key.path[-1]
    wrong_in_the_file = f"[{table}]\n{name} = {{}}\n"
    channel = "aeron:ipc?term-length=64k" if name.endswith("_channel") else None
    text = channel or OF_KEY.get(name) or OF_TYPE[key.kind.toml]
    for variable in key.variables:
        loaded = accepted(wrong_in_the_file, {variable: text, **WITH.get(name, {})})
        assert loaded.sources[".".join(key.path)] == f"env {variable}"


@pytest.mark.parametrize(
    ("variable", "text", "read"),
    [
        ("DRIVER_CONTROL_STREAM_ID", " 1005 ", lambda c: c.driver.control_stream_id == 1005),
        ("POLICIES_MLOCK_SHM", "1", lambda c: c.policies.mlock_shm is True),
        ("POLICIES_PREFAULT_SHM", "0", lambda c: c.policies.prefault_shm is False),
        ("POLICIES_PREFAULT_SHM", "FALSE", lambda c: c.policies.prefault_shm is False),
        ("DRIVER_STREAM_ID_RANGE", "[5, 9]", lambda c: c.driver.stream_id_range == (5, 9)),
        ("DRIVER_STREAM_ID_RANGE", "5-9", lambda c: c.driver.stream_id_range == (5, 9)),
        (
            "SHM_ALLOWED_BASE_DIRS",
            "/x, /dev/shm",
            lambda c: c.shm.allowed_base_dirs == ["/x", "/dev/shm"],
        ),
        (
            "SHM_ALLOWED_BASE_DIRS",
            '["/x", "/dev/shm"]',
            lambda c: c.shm.allowed_base_dirs == ["/x", "/dev/shm"],
        ),
        ("SHM_PERMISSIONS_MODE", "0600", lambda c: c.shm.permissions_mode == 0o600),
        ("TP_LOG_LEVEL", "4", lambda c: c.logging.level == 4),
        ("STREAMS_CAM1_STREAM_ID", "77", lambda c: c.streams["cam1"].stream_id == 77),
        ("PROFILES_CAMERA_HEADER_NSLOTS", "32", lambda c: c.profiles["camera"].header_nslots == 32),
        (
            "PROFILES_CAMERA_PAYLOAD_POOLS",
            "[{ pool_id = 9, stride_bytes = 128 }]",
            lambda c: c.profiles["camera"].payload_pools[0].pool_id == 9,
        ),
        ("METRICS_PORTS_GC", "9464", lambda c: c.metrics.ports.gc == 9464),
        (
            "POLICIES_SHUTDOWN_TOKEN",
            " spaces stay ",
            lambda c: c.policies.shutdown_token.get_secret_value() == " spaces stay ",
        ),
    ],
)
def test_values_are_parsed_by_their_type(
    variable: str, text: str, read: Callable[[HostConfig], bool]
) -> None:
    assert read(accepted(environ={variable: text}).config)


@pytest.mark.parametrize(
    ("variable", "text", "rule", "remedy"),
    [
        ("DRIVER_CONTROL_STREAM_ID", "abc", "integer: 1 to", "DRIVER_CONTROL_STREAM_ID=1000"),
        ("DRIVER_CONTROL_STREAM_ID", "0", "integer: 1 to", "control_stream_id = 1000"),
        ("DRIVER_CONTROL_STREAM_ID", "1e3", "integer: 1 to", "DRIVER_CONTROL_STREAM_ID=1000"),
        ("DRIVER_CONTROL_STREAM_ID", "\u0661", "integer: 1 to", "DRIVER_CONTROL_STREAM_ID=1000"),
        ("DRIVER_CONTROL_STREAM_ID", "9" * 5000, "integer", "DRIVER_CONTROL_STREAM_ID=1000"),
        ("POLICIES_MLOCK_SHM", "yes", "boolean: true or false", "POLICIES_MLOCK_SHM=false"),
        ("DRIVER_STREAM_ID_RANGE", "5", '"first-last"', '"20000-29999"'),
        ("DRIVER_STREAM_ID_RANGE", "[5", "string or array", "DRIVER_STREAM_ID_RANGE=20000-29999"),
        ("DRIVER_STREAM_ID_RANGE", "[1]\nx = 1", "string or array", "=20000-29999"),
        ("PROFILES_CAMERA_PAYLOAD_POOLS", "5", "array of tables", "=[{ pool_id = 1"),
        ("PROFILES_CAMERA_PAYLOAD_POOLS", "[" * 2000, "array of tables", "=[{ pool_id = 1"),
        ("PROFILES_CAMERA_HEADER_NSLOTS", "63", "a power of two", "write 64"),
        ("STREAMS_CAM1_PROFILE", "none", "the name of a profile", "name one of camera"),
        ("SHM_ALLOWED_BASE_DIRS", "x,/dev/shm", "an absolute, normalized path", "at the root"),
        ("AERON_DIR", "x", "an absolute, normalized path", "start it at the root"),
        ("TP_LOG_LEVEL", "INFO", "integer: 0 to 4", "TP_LOG_LEVEL=2"),
        ("LAUNCHER_RESTART_BACKOFF_MAX_MS", "1", "at least launcher.restart", "write 50 or more"),
        ("DRIVER_INSTANCE_ID", "\udcff", "a string of printable characters", "driver-01"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    variable: str, text: str, rule: str, remedy: str
) -> None:
    fault = only_fault("", {variable: text})
    assert (fault.where, fault.line) == (variable, None)
    assert rule in fault.rule
    assert remedy in fault.remedy
    assert fault.value.isprintable()


def test_a_wrong_token_is_told_without_it() -> None:
    fault = only_fault("", {"POLICIES_SHUTDOWN_TOKEN": "hush\nhush"})
    assert fault.where == "POLICIES_SHUTDOWN_TOKEN"
    assert "hush" not in str(fault)


def test_a_variable_replaces_a_wrong_value_of_the_file() -> None:
    assert not faults_of("[driver]\nqos_stream_id = 0", {"DRIVER_QOS_STREAM_ID": "5"})


def test_a_wrong_variable_is_one_fault_whatever_the_file_says() -> None:
    fault = only_fault("[driver]\nqos_stream_id = 0", {"DRIVER_QOS_STREAM_ID": "x"})
    assert fault.where == "DRIVER_QOS_STREAM_ID"


def test_the_aeron_directory_has_its_own_precedence() -> None:
    text = '[driver]\naeron_dir = "/file"'
    both = {"DRIVER_AERON_DIR": "/specific", "AERON_DIR": "/general", "USER": "ann"}
    general = {"AERON_DIR": "/general", "USER": "ann"}
    directories = [
        accepted(text, both),
        accepted(text, general),
        accepted(text, {"USER": "ann"}),
        accepted('[driver]\naeron_dir = ""', {"USER": "ann"}),
    ]
    assert [
        (loaded.config.driver.aeron_dir, loaded.sources["driver.aeron_dir"])
        for loaded in directories
    ] == [
        ("/specific", "env DRIVER_AERON_DIR"),
        ("/general", "env AERON_DIR"),
        ("/file", "built-in"),
        ("/dev/shm/aeron-ann", "default"),
    ]


def test_the_default_aeron_directory_is_that_of_the_c_library() -> None:
    assert default_aeron_dir({"USER": "ann"}) == "/dev/shm/aeron-ann"
    assert default_aeron_dir({}) == f"/dev/shm/aeron-{pwd.getpwuid(os.getuid()).pw_name}"


def test_a_user_name_that_makes_no_path_is_a_fault() -> None:
    fault = only_fault("", {"USER": "a b"})
    assert (fault.where, fault.value) == ("driver.aeron_dir", '"/dev/shm/aeron-a b"')


def test_empty_variables_are_unset() -> None:
    loaded = accepted(
        "[driver]\nqos_stream_id = 5",
        {"DRIVER_QOS_STREAM_ID": "", "DRIVER_INSTANCE_ID": "", "AERON_DIR": "", "TP_LOG_LEVEL": ""},
    )
    assert loaded.config.driver.qos_stream_id == 5
    assert loaded.sources["driver.instance_id"] == "default"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (".".join(key.path[:-1]), key.path[-1])
        for key in static_keys()
        if kind_of(key.field).toml in ("string", "string or array")
    ],
)
def test_empty_strings_of_the_file_are_unset(table: str, key: str) -> None:
    loaded = accepted(f'[{table}]\n{key} = ""\n')
    assert loaded.sources[f"{table}.{key}"] == "default"
    supervisor = SUPERVISOR if table == "supervisor" else ""
    assert loaded.config == accepted(supervisor).config


def test_variables_of_the_supervisor_do_not_conjure_it() -> None:
    fault = only_fault("", {"SUPERVISOR_FORCE_MODE": "1"})
    assert fault.where == "SUPERVISOR_FORCE_MODE"
    assert "[supervisor] is absent" in fault.rule
    assert "[supervisor] table" in fault.remedy
    supervisor = accepted(SUPERVISOR, {"SUPERVISOR_FORCE_MODE": "1"}).config.supervisor
    assert supervisor is not None
    assert supervisor.force_mode == 1


def test_other_tables_need_not_stand_in_the_file() -> None:
    loaded = accepted(environ={"METRICS_PORTS_DRIVER": "9001", "METRICS_ENABLED": "true"})
    assert (loaded.config.metrics.enabled, loaded.config.metrics.ports.driver) == (True, 9001)


def test_a_variable_that_two_entries_share_is_refused() -> None:
    assert not faults_of(TWO_STREAMS)
    fault = only_fault(TWO_STREAMS, {"STREAMS_CAM_A_STREAM_ID": "5"})
    assert fault.where == "STREAMS_CAM_A_STREAM_ID"
    assert "streams.cam-a.stream_id and streams.cam_a.stream_id" in fault.rule


def test_variables_of_entries_that_are_not_there_change_nothing() -> None:
    assert accepted(environ={"STREAMS_CAM9_STREAM_ID": "5"}).config == accepted().config
