"""Rules of single keys: each has a value that breaks it, and says where, why and what to do."""

import pytest

from tests.unit.config.documents import accepted, faults_of, only_fault

LONG = "x" * 2000
CHANNEL_RULE = "an Aeron channel: aeron:ipc or aeron:udp"
PATH_RULE = "an absolute, normalized path"
MODE_RULE = "an octal mode string"
RANGE_RULE = '"first-last" or [first, last]'
NAME_RULE = "a safe path component"
NAMESPACE_RULE = "one safe path component"
TERM_RULE = "a power of two from 64k to 1g"
TEXT_RULE = "a string of printable characters"
SHUTDOWN_RULE = "a string of printable ASCII characters"
FALLBACK_RULE = "an Aeron channel or a bridge:// URI"

# table, key, wrong value as TOML, part of the rule, part of the remedy
BROKEN = [
    ("driver", "instance_id", "5", TEXT_RULE, "driver-01"),
    ("driver", "instance_id", '"a\\nb"', TEXT_RULE, "driver-01"),
    ("driver", "instance_id", f'"{LONG}"', TEXT_RULE, "driver-01"),
    ("driver", "aeron_dir", '"relative/dir"', PATH_RULE, "start it at the root"),
    ("driver", "control_channel", '"ipc"', CHANNEL_RULE, '"aeron:ipc?term-length=4m"'),
    ("driver", "control_channel", '"aeron:tcp?x=1"', CHANNEL_RULE, '"aeron:ipc?term-length=4m"'),
    ("driver", "control_channel", '"aeron-spy:aeron:ipc"', CHANNEL_RULE, "aeron:ipc"),
    ("driver", "control_channel", '"aeron:ipc?term-length"', CHANNEL_RULE, "aeron:ipc"),
    ("driver", "control_channel", '"aeron:ipc?"', CHANNEL_RULE, "aeron:ipc"),
    ("driver", "control_channel", '"aeron:ipc?mtu=8k||sparse=true"', CHANNEL_RULE, "aeron:ipc"),
    ("driver", "control_channel", '"aeron:ipc?mtu=8 k"', CHANNEL_RULE, "aeron:ipc"),
    ("driver", "control_channel", '"aeron:ipc?mtu=8k|mtu=4k"', "each key once", "leave one mtu"),
    ("driver", "control_channel", f'"aeron:ipc?alias={LONG}{LONG}{LONG}"', CHANNEL_RULE, "aeron"),
    ("driver", "announce_channel", '"aeron:udp"', "endpoint", "aeron:udp?endpoint="),
    ("driver", "qos_channel", '"aeron:ipc?term-length=5m"', TERM_RULE, "term-length=4m"),
    ("driver", "metadata_channel", '"aeron:ipc?term-length=32k"', TERM_RULE, "term-length=4m"),
    ("driver", "descriptor_channel", '"aeron:ipc?term-length=2g"', TERM_RULE, "term-length=4m"),
    ("driver", "descriptor_channel", '"aeron:ipc?term-length=4q"', TERM_RULE, "term-length=4m"),
    ("driver", "control_stream_id", "0", "integer: 1 to 2147483647", "control_stream_id = 1000"),
    ("driver", "control_stream_id", "2147483648", "1 to 2147483647", "control_stream_id = 1000"),
    ("driver", "control_stream_id", '"1000"', "integer: 1 to", "control_stream_id = 1000"),
    ("driver", "control_stream_id", "1000.0", "integer: 1 to", "control_stream_id = 1000"),
    ("driver", "announce_stream_id", "true", "integer: 1 to", "announce_stream_id = 1000"),
    ("driver", "qos_stream_id", "-1", "integer: 1 to", "qos_stream_id = 1200"),
    ("driver", "metadata_stream_id", "[]", "integer: 1 to", "metadata_stream_id = 1300"),
    ("driver", "descriptor_stream_id", "{}", "integer: 1 to", "descriptor_stream_id = 1100"),
    ("driver", "stream_id_range", '"20000"', RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", "[20000]", RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", '["20000", "29999"]', RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", "[20000, 29999.0]", RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", "[false, true]", RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", "20000", RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", '"29999-20000"', RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", '"0-5"', RANGE_RULE, '"20000-29999"'),
    ("driver", "stream_id_range", "[1, 4294967295]", "4294967294", '"20000-29999"'),
    ("driver", "descriptor_stream_id_range", "[1, 2147483648]", "2147483647", "20000-29999"),
    ("driver", "control_stream_id_range", "[5, 2]", RANGE_RULE, '"2-5"'),
    ("shm", "base_dir", '"dev/shm"', PATH_RULE, "start it at the root"),
    ("shm", "base_dir", '"/dev/shm/../x"', PATH_RULE, "write /dev/x"),
    ("shm", "base_dir", '"/dev//shm"', PATH_RULE, "write /dev/shm"),
    ("shm", "base_dir", '"/dev/sh m"', PATH_RULE, "plain characters"),
    ("shm", "base_dir", '"/dev/a?b"', PATH_RULE, "plain characters"),
    ("shm", "base_dir", '"/dev/a|b"', PATH_RULE, "plain characters"),
    ("shm", "base_dir", '"/dev/ü"', PATH_RULE, "plain characters"),
    ("shm", "base_dir", f'"/{LONG}"', PATH_RULE, "plain characters"),
    ("shm", "base_dir", "7", PATH_RULE, "/dev/shm/tensorpool"),
    ("shm", "namespace", '"../x"', NAMESPACE_RULE, '"default"'),
    ("shm", "namespace", '"."', NAMESPACE_RULE, '"default"'),
    ("shm", "namespace", '"a/b"', NAMESPACE_RULE, '"default"'),
    ("shm", "namespace", f'"{LONG}"', NAMESPACE_RULE, '"default"'),
    ("shm", "require_hugepages", "1", "boolean: true or false", "require_hugepages = false"),
    ("shm", "page_size_bytes", "2048", "a power of two from 4096", "4096"),
    ("shm", "page_size_bytes", "5000", "a power of two from 4096", "4096"),
    ("shm", "page_size_bytes", "4294967296", "integer: a power of two", "page_size_bytes = 4096"),
    ("shm", "permissions_mode", '"666"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", '"770"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", '"460"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", '"260"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", '"6660"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", '"68"', MODE_RULE, '"660"'),
    ("shm", "permissions_mode", "660", MODE_RULE, '"660"'),
    ("shm", "allowed_base_dirs", '"/dev/shm/tensorpool"', "array of strings", "["),
    ("shm", "allowed_base_dirs", "[]", "array of strings: absolute paths", "["),
    ("policies", "allow_dynamic_streams", '"yes"', "boolean", "allow_dynamic_streams = false"),
    ("policies", "default_profile", '"a b"', NAME_RULE, "rename"),
    ("policies", "announce_period_ms", "0", "1 to 4294967295", "announce_period_ms = 1000"),
    ("policies", "lease_keepalive_interval_ms", "0", "1 to 4294967295", "= 1000"),
    ("policies", "lease_expiry_grace_intervals", "0", "1 to 4294967295", "= 3"),
    ("policies", "node_id_reuse_cooldown_ms", "-1", "0 to 4294967295", "= 1000"),
    ("policies", "node_id_reuse_cooldown_ms", "4294967296", "0 to 4294967295", "= 1000"),
    ("policies", "prefault_shm", '"true"', "boolean: true or false", "prefault_shm = true"),
    ("policies", "mlock_shm", "0", "boolean: true or false", "mlock_shm = false"),
    ("policies", "epoch_gc_enabled", "1", "boolean: true or false", "epoch_gc_enabled = true"),
    ("policies", "epoch_gc_keep", "0", "1 to 4294967295", "epoch_gc_keep = 2"),
    ("policies", "epoch_gc_min_age_ns", "-1", "0 to 18446744073709551615", "= 3000000000"),
    ("policies", "epoch_gc_on_startup", '"no"', "boolean: true or false", "= false"),
    ("policies", "shutdown_timeout_ms", "0", "1 to 4294967295", "shutdown_timeout_ms = 2000"),
    ("policies", "shutdown_token", '"ü"', SHUTDOWN_RULE, "a long random word"),
    ("policies", "shutdown_token", "5", SHUTDOWN_RULE, "a long random word"),
    ("policies", "max_leases", "0", "1 to 1000000", "max_leases = 1024"),
    ("policies", "max_streams", "100001", "1 to 100000", "max_streams = 256"),
    ("profiles.camera", "header_nslots", "63", "a power of two", "write 64"),
    ("profiles.camera", "header_nslots", "0", "a power of two", "write 64"),
    ("profiles.camera", "header_nslots", "4294967296", "a power of two", "header_nslots = 1024"),
    ("profiles.camera", "header_nslots", '"64"', "integer: a power of two", "header_nslots"),
    ("profiles.camera", "payload_pools", "[]", "array of tables", "pool_id = 1"),
    ("profiles.camera", "payload_pools", "5", "array of tables", "pool_id = 1"),
    ("streams.cam1", "stream_id", "4294967295", "0 to 4294967294", "stream_id = 10000"),
    ("streams.cam1", "stream_id", "-1", "0 to 4294967294", "stream_id = 10000"),
    ("streams.cam1", "profile", "7", NAME_RULE, "rename"),
    ("supervisor", "control_channel", '"udp"', CHANNEL_RULE, "aeron:ipc"),
    ("supervisor", "control_stream_id", "-5", "1 to 2147483647", "= 1000"),
    ("supervisor", "consumer_capacity", "0", "1 to 4294967295", "consumer_capacity = 256"),
    ("supervisor", "consumer_stale_ms", "0", "1 to 4294967295", "consumer_stale_ms = 5000"),
    ("supervisor", "per_consumer_enabled", "1", "boolean", "per_consumer_enabled = false"),
    ("supervisor", "per_consumer_control_base", "-1", "0 to 2147483647", "= 31000"),
    ("supervisor", "force_no_shm", "0", "boolean: true or false", "force_no_shm = false"),
    ("supervisor", "force_mode", "3", "0 to 2", "force_mode = 0"),
    ("supervisor", "payload_fallback_uri", '"http://x"', FALLBACK_RULE, "leave it empty"),
    ("supervisor", "payload_fallback_uri", '"bridge://"', FALLBACK_RULE, "leave it empty"),
    ("supervisor", "payload_fallback_uri", '"aeron:udp"', "endpoint", "aeron:udp?endpoint="),
    ("media_driver", "embedded", '"yes"', "boolean: true or false", "embedded = true"),
    ("media_driver", "threading", '"invoker"', "`shared`", 'threading = "shared"'),
    ("media_driver", "timer_interval_ms", "0", "1 to 4294967295", "timer_interval_ms = 50"),
    ("launcher", "hang_timeout_ms", "0", "1 to 4294967295", "hang_timeout_ms = 5000"),
    ("launcher", "idle_strategy", '"sleep"', "`backoff`", 'idle_strategy = "backoff"'),
    ("launcher", "crash_loop_restarts", "0", "1 to 4294967295", "crash_loop_restarts = 10"),
    ("metrics", "bind_address", '"localhost"', "an IP address", '"127.0.0.1"'),
    ("metrics.ports", "driver", "65536", "0 to 65535", "driver = 0"),
    ("metrics.ports", "gc", "-1", "0 to 65535", "gc = 0"),
    ("logging", "level", "5", "0 to 4", "level = 2"),
]


@pytest.mark.clause("Driver §11-7")
@pytest.mark.parametrize(("table", "key", "value", "rule", "remedy"), BROKEN)
def test_a_wrong_value_is_told_with_its_rule_and_remedy(
    table: str, key: str, value: str, rule: str, remedy: str
) -> None:
    fault = only_fault(f"[{table}]\n{key} = {value}\n")
    assert fault.where == f"{table}.{key}"
    assert rule in fault.rule
    assert remedy in fault.remedy
    assert fault.value


@pytest.mark.parametrize(
    ("item", "where", "rule", "remedy"),
    [
        ("{ pool_id = 65536, stride_bytes = 64 }", "[1].pool_id", "0 to 65535", "pool_id = 1"),
        ("{ pool_id = 2, stride_bytes = 65 }", "[1].stride_bytes", "multiple of 64", "write 128"),
        ("{ pool_id = 2, stride_bytes = 0 }", "[1].stride_bytes", "multiple of 64", "write 64"),
        ("{ pool_id = 2, stride_bytes = 4294967296 }", "[1].stride_bytes", "up to 4294967295", "="),
        ("{ pool_id = 2 }", "[1].stride_bytes", "required", "add stride_bytes = "),
        ("{ stride_bytes = 64 }", "[1].pool_id", "required", "add pool_id = 1"),
        (
            "{ pool_id = 2, stride_bytes = 64, strid = 1 }",
            "[1].strid",
            "a key that tensorpool knows",
            "did you mean stride_bytes?",
        ),
        ("5", "[1]", "a table of the array's keys", "{ pool_id = 1, stride_bytes = 1048576 }"),
    ],
)
def test_a_wrong_pool_is_told_by_its_place(item: str, where: str, rule: str, remedy: str) -> None:
    fault = only_fault(
        "[profiles.camera]\n"
        f"payload_pools = [{{ pool_id = 1, stride_bytes = 64 }}, {item},"
        " { pool_id = 3, stride_bytes = 64 }]\n"
    )
    assert fault.where == f"profiles.camera.payload_pools{where}"
    assert rule in fault.rule
    assert remedy in fault.remedy


@pytest.mark.parametrize(
    ("text", "where", "rule", "remedy"),
    [
        ("[launchr]", "launchr", "a table that tensorpool knows", "did you mean launcher?"),
        (
            "[driver]\ncontrol_steam_id = 1",
            "driver.control_steam_id",
            "a key that tensorpool knows in [driver]",
            "did you mean control_stream_id?",
        ),
        (
            "[driver]\nepoch_gc_keep = 2",
            "driver.epoch_gc_keep",
            "a key that tensorpool knows in [driver]",
            "it belongs to [policies]: move it there",
        ),
        (
            "[logging]\nzzz = 2",
            "logging.zzz",
            "a key that tensorpool knows in [logging]",
            "remove it; known are level",
        ),
        (
            "[metrics.ports]\nsupervisr = 2",
            "metrics.ports.supervisr",
            "a key that tensorpool knows in [metrics.ports]",
            "did you mean supervisor?",
        ),
        (
            "[streams.cam1]\nid = 2",
            "streams.cam1.id",
            "a key that tensorpool knows in [streams.cam1]",
            "did you mean stream_id?",
        ),
        ('["a b"]', '"a b"', "a table that tensorpool knows", "known are driver, shm"),
    ],
)
def test_an_unknown_key_comes_with_a_suggestion(
    text: str, where: str, rule: str, remedy: str
) -> None:
    fault = only_fault(text)
    assert (fault.where, fault.rule) == (where, rule)
    assert remedy in fault.remedy


@pytest.mark.parametrize("table", ["driver", "shm", "supervisor", "metrics", "profiles", "streams"])
def test_a_value_where_a_table_belongs(table: str) -> None:
    fault = only_fault(f"{table} = 5")
    assert (fault.where, fault.value, fault.rule) == (table, "5", "a table")
    assert f"[{table}]" in fault.remedy


def test_an_entry_that_is_no_table() -> None:
    fault = only_fault("[streams]\ncam2 = 7")
    assert (fault.where, fault.rule) == ("streams.cam2", "a table")


@pytest.mark.parametrize("table", ["profiles", "streams"])
@pytest.mark.parametrize("name", ["a b", "../x", "", ".", "x" * 33, "-x", "ü"])
def test_names_of_entries_are_safe_path_components(table: str, name: str) -> None:
    body = {
        "profiles": "payload_pools = [{ pool_id = 1, stride_bytes = 64 }]",
        "streams": 'stream_id = 5\nprofile = "camera"',
    }[table]
    fault = only_fault(f'[{table}."{name}"]\n{body}\n')
    assert fault.where.startswith(f"{table}.")
    assert NAME_RULE in fault.rule
    assert "rename" in fault.remedy


@pytest.mark.parametrize("key", ["stream_id", "profile"])
def test_a_stream_needs_both_keys(key: str) -> None:
    lines = {"stream_id": "stream_id = 5", "profile": 'profile = "camera"'}
    del lines[key]
    fault = only_fault("[streams.cam2]\n" + "\n".join(lines.values()))
    assert fault.where == f"streams.cam2.{key}"
    assert fault.rule.startswith("required")
    assert fault.remedy.startswith(f"add {key} = ")


@pytest.mark.clause("Driver §17-4", "Driver §4.3-7")
@pytest.mark.config_key("profiles.payload_pools")
def test_a_profile_needs_pools() -> None:
    fault = only_fault("[profiles.empty]\nheader_nslots = 64")
    assert fault.where == "profiles.empty.payload_pools"
    assert fault.rule.startswith("required")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"660"', 0o660),
        ('"0660"', 0o660),
        ('"0o600"', 0o600),
        ('"640"', 0o640),
        ('"620"', 0o620),
        ('""', 0o660),
    ],
)
def test_modes_are_octal(text: str, expected: int) -> None:
    assert accepted(f"[shm]\npermissions_mode = {text}").config.shm.permissions_mode == expected


@pytest.mark.parametrize("text", ['"20000-29999"', '" 20000 - 29999 "', "[20000, 29999]"])
def test_both_forms_of_a_range(text: str) -> None:
    assert accepted(f"[driver]\nstream_id_range = {text}").config.driver.stream_id_range == (
        20000,
        29999,
    )


@pytest.mark.parametrize(
    "channel",
    [
        "aeron:ipc",
        "aeron:ipc?term-length=64k",
        "aeron:ipc?term-length=1g",
        "aeron:ipc?term-length=4194304",
        "aeron:ipc?term-length=4m|alias=a-b=c",
        "aeron:udp?endpoint=224.0.1.1:40456|interface=localhost",
        "aeron:udp?control=localhost:9999|control-mode=dynamic",
    ],
)
def test_aeron_channels(channel: str) -> None:
    assert accepted(f'[driver]\ncontrol_channel = "{channel}"').config.driver.control_channel == (
        channel
    )


@pytest.mark.parametrize("uri", ["bridge://rack-2", "aeron:udp?endpoint=host:1", ""])
def test_fallback_uris(uri: str) -> None:
    config = accepted(f'[supervisor]\npayload_fallback_uri = "{uri}"').config
    assert config.supervisor is not None
    assert config.supervisor.payload_fallback_uri == uri


def test_a_trailing_slash_is_not_part_of_a_path() -> None:
    assert accepted('[shm]\nbase_dir = "/dev/shm/x/"').config.shm.base_dir == "/dev/shm/x"


@pytest.mark.parametrize("token", ["hush-hush", "ü-hush", "hush\\nhush"])
@pytest.mark.parametrize("key", ["shutdown_token", "shutdown_tokn", "shutdwn_tken"])
def test_a_token_never_appears_in_a_fault(token: str, key: str) -> None:
    faults = faults_of(f'[policies]\n{key} = "{token}"\nannounce_period_ms = 0')
    assert faults
    assert not [fault for fault in faults if "hush" in str(fault)]


@pytest.mark.parametrize(
    "text",
    [
        "policies = [{ shutdown_token = 'hush' }]",
        "[driver]\nshutdown_token = 'hush'",
        "[policies]\nshutdown_token = { value = 'hush' }",
        "[policies]\nannounce_period_ms = { shutdown_token = 'hush' }",
        "[policies]\nannounce_period_ms = [['hush']]",
    ],
)
def test_nor_when_it_stands_in_the_wrong_place(text: str) -> None:
    assert "hush" not in str(only_fault(text))


def test_a_value_in_a_message_is_short_and_on_one_line() -> None:
    fault = only_fault('[driver]\naeron_dir = "\\u001b[31m\\n' + LONG + '"')
    assert fault.value.isprintable()
    assert len(fault.value) < 100
