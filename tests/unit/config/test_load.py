"""Files: which one, what is wrong with it, where each value came from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tensorpool.config import InvalidConfig, find_config, load
from tensorpool.config.faults import Fault
from tensorpool.errors import ConfigError, TensorPoolError
from tests.unit.config.documents import MINIMAL

type Write = Callable[[str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes) -> str:
        path = tmp_path / "host.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refusal(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return str(caught.value)


@pytest.mark.parametrize(
    ("explicit", "environ", "expected"),
    [
        ("a.toml", {"TENSORPOOL_CONFIG": "b.toml"}, "a.toml"),
        (None, {"TENSORPOOL_CONFIG": "b.toml"}, "b.toml"),
        (None, {"TENSORPOOL_CONFIG": ""}, None),
        (None, {}, None),
    ],
)
def test_which_file(explicit: str | None, environ: dict[str, str], expected: str | None) -> None:
    assert find_config(explicit, environ) == expected


def test_a_missing_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/none.toml"
    message = refusal(path)
    assert path in message
    assert "no such file" in message
    assert "name an existing one" in message


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory; name the TOML file in it" in refusal(str(tmp_path))


def test_a_file_below_a_file(write: Write) -> None:
    assert "cannot be read" in refusal(write(MINIMAL) + "/x.toml")


def test_a_name_that_cannot_be() -> None:
    assert "cannot be read" in refusal("a\0b")


def test_a_file_without_end() -> None:
    assert "larger than 1048576 bytes" in refusal("/dev/zero")


def test_bytes_that_are_no_utf_8(write: Write) -> None:
    path = write(b'[driver]\ninstance_id = "\xff"\n')
    assert "byte 24 is no UTF-8; save the file as UTF-8" in refusal(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[driver]\ncontrol_stream_id = \n", "line 2, column 21"),
        ("[driver]\n[driver]\n", "line 2, column 8"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ('x = "unended', "line 1, column 13"),
    ],
)
def test_text_that_is_no_toml_is_told_by_line_and_column(
    write: Write, text: str, place: str
) -> None:
    path = write(text)
    message = refusal(path)
    assert f"{path}: {place}: no valid TOML" in message
    assert "put that line right" in message


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "{ a = " * 5000])
def test_text_nested_too_deeply(write: Write, text: str) -> None:
    assert "nested too deeply" in refusal(write(text))


def test_an_integer_of_too_many_digits(write: Write) -> None:
    assert "no valid TOML" in refusal(write("a = " + "9" * 5000))


def test_faults_carry_lines_and_the_message_tells_all(write: Write) -> None:
    path = write(MINIMAL + "\n[driver]\n# why\nqos_stream_id = 0\n  'announce_stream_id' = -1\n")
    with pytest.raises(InvalidConfig) as caught:
        load(path, {"POLICIES_MAX_LEASES": "x"})
    assert [(fault.where, fault.line) for fault in caught.value.faults] == [
        ("driver.qos_stream_id", 11),
        ("driver.announce_stream_id", 12),
        ("POLICIES_MAX_LEASES", None),
    ]
    assert str(caught.value).splitlines() == [
        f"{path}: 3 faults",
        "  line 11: driver.qos_stream_id = 0",
        "      rule: integer: 1 to 2147483647",
        "    remedy: write it like qos_stream_id = 1200",
        "  line 12: driver.announce_stream_id = -1",
        "      rule: integer: 1 to 2147483647",
        "    remedy: write it like announce_stream_id = 1000",
        '  POLICIES_MAX_LEASES = "x"',
        "      rule: integer: 1 to 1000000",
        "    remedy: set it like POLICIES_MAX_LEASES=1024",
    ]


def test_a_fault_without_a_value_shows_none() -> None:
    assert str(Fault("profiles", "", "a rule", "a remedy")).splitlines()[0] == "profiles"


def test_faults_are_errors_of_ours() -> None:
    assert issubclass(InvalidConfig, ConfigError)
    assert issubclass(ConfigError, TensorPoolError)


def test_every_value_has_a_source(write: Write) -> None:
    path = write(MINIMAL + '[driver]\nqos_stream_id = 5\ninstance_id = ""\n')
    sources = load(path, {"SHM_NAMESPACE": "lab1"}).sources
    assert sources["driver.qos_stream_id"] == f"file {path}"
    assert sources["driver.instance_id"] == "default"
    assert sources["shm.namespace"] == "env SHM_NAMESPACE"
    assert sources["streams.cam1.stream_id"] == f"file {path}"
    assert sources["profiles.camera.header_nslots"] == "default"
    assert not [key for key in sources if key.startswith("supervisor")]


REFERENCE_LIKE = """
[driver]
instance_id = "driver-example"
aeron_dir = ""
control_channel = "aeron:ipc?term-length=4m"
control_stream_id = 1000
announce_channel = "aeron:ipc?term-length=4m"
announce_stream_id = {announce}
qos_channel = "aeron:ipc?term-length=4m"
qos_stream_id = 1200
stream_id_range = "20000-29999"
descriptor_stream_id_range = "31000-31999"
control_stream_id_range = "32000-32999"

[shm]
base_dir = "/dev/shm"
namespace = "default"
require_hugepages = false
page_size_bytes = 4096
permissions_mode = "660"
allowed_base_dirs = ["/dev/shm"]

[policies]
allow_dynamic_streams = {dynamic}
default_profile = "camera"
announce_period_ms = 1000
lease_keepalive_interval_ms = 1000
lease_expiry_grace_intervals = 3
node_id_reuse_cooldown_ms = 1000

[profiles.camera]
header_nslots = 64
payload_pools = [
  {{ pool_id = 1, stride_bytes = 1048576 }}
]

[streams.cam1]
stream_id = {stream}
profile = "camera"
"""
REFERENCE_SUPERVISOR = """
[supervisor]
control_channel = "aeron:ipc?term-length=4m"
control_stream_id = 1000
announce_channel = "aeron:ipc?term-length=4m"
announce_stream_id = 1001
metadata_channel = "aeron:ipc?term-length=4m"
metadata_stream_id = 1300
qos_channel = "aeron:ipc?term-length=4m"
qos_stream_id = 1200
consumer_capacity = 256
consumer_stale_ms = 5000
per_consumer_enabled = true
per_consumer_descriptor_channel = "aeron:ipc?term-length=4m"
per_consumer_descriptor_base = 31000
per_consumer_descriptor_range = 1000
per_consumer_control_channel = "aeron:ipc?term-length=4m"
per_consumer_control_base = 32000
per_consumer_control_range = 1000
force_no_shm = false
force_mode = 0
payload_fallback_uri = ""
"""


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE_LIKE.format(announce=1001, dynamic="false", stream=10000) + REFERENCE_SUPERVISOR,
        REFERENCE_LIKE.format(announce=1001, dynamic="true", stream=10000),
        REFERENCE_LIKE.format(announce=1002, dynamic="false", stream=10001),
    ],
    ids=["example", "dynamic", "announce-separate"],
)
def test_configurations_of_the_c_driver_load_unchanged(write: Write, text: str) -> None:
    loaded = load(write(text), {"USER": "ann"})
    assert loaded.config.driver.aeron_dir == "/dev/shm/aeron-ann"
    assert loaded.config.profiles["camera"].header_nslots == 64
