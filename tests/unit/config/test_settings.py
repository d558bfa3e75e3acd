"""Defaults (Driver §17), what is inherited, and the settings that processes get."""

import pickle
import subprocess
import sys

import pytest

from tensorpool.config import load, to_settings
from tensorpool.config.derive import current_user, sanitized_user
from tensorpool.config.space import epoch_bytes
from tensorpool.settings import Endpoint, HostSettings, IdRange, PerConsumerStreams, PoolLayout
from tensorpool.shm.layout import payload_pool_bytes
from tests.unit.config.documents import accepted

IPC = "aeron:ipc?term-length=4m"
MS = 1_000_000


def settings(text: str = "") -> HostSettings:
    return to_settings(accepted(text).config)


@pytest.mark.clause("Driver §17-1", "Driver §4.4-5", "Wire §15.11-1")
def test_the_defaults_of_the_specification() -> None:
    config = accepted().config
    driver, shm, policies = config.driver, config.shm, config.policies
    assert driver.instance_id == "driver-01"
    assert (driver.control_channel, driver.control_stream_id) == (IPC, 1000)
    assert (driver.announce_channel, driver.announce_stream_id) == (IPC, 1000)
    assert (driver.qos_channel, driver.qos_stream_id) == (IPC, 1200)
    assert driver.stream_id_range is None
    assert driver.descriptor_stream_id_range is None
    assert driver.control_stream_id_range is None
    assert shm.base_dir == "/dev/shm/tensorpool"
    assert shm.require_hugepages is False
    assert shm.page_size_bytes == 4096
    assert shm.permissions_mode == 0o660
    assert shm.allowed_base_dirs == ["/dev/shm/tensorpool"]
    assert policies.allow_dynamic_streams is False
    assert policies.default_profile == "camera"
    assert policies.announce_period_ms == 1000
    assert policies.lease_keepalive_interval_ms == 1000
    assert policies.lease_expiry_grace_intervals == 3
    assert policies.prefault_shm is True
    assert policies.mlock_shm is False
    assert policies.epoch_gc_enabled is True
    assert policies.epoch_gc_keep == 2
    assert policies.epoch_gc_min_age_ns == 3 * 1000 * MS
    assert policies.epoch_gc_on_startup is False
    assert policies.shutdown_timeout_ms == 2000
    assert policies.shutdown_token.get_secret_value() == ""
    assert config.profiles["camera"].header_nslots == 1024
    assert config.supervisor is None


def test_announces_follow_the_control_endpoint() -> None:
    driver = settings('[driver]\ncontrol_channel = "aeron:ipc"\ncontrol_stream_id = 7').driver
    assert driver.announce == Endpoint("aeron:ipc", 7)


def test_the_minimum_age_follows_the_announce_period() -> None:
    assert settings("[policies]\nannounce_period_ms = 50").policies.epoch_gc_min_age_ns == 150 * MS


@pytest.mark.config_key("shm.allowed_base_dirs")
def test_the_allowed_directories_follow_the_base() -> None:
    assert settings('[shm]\nbase_dir = "/dev/shm/x"').shm.allowed_base_dirs == ("/dev/shm/x",)


@pytest.mark.config_key("policies.default_profile")
def test_the_default_profile_is_the_first() -> None:
    pools = "payload_pools = [{ pool_id = 1, stride_bytes = 64 }]"
    assert settings(f"[profiles.aaa]\n{pools}").policies.default_profile == "camera"


def test_the_supervisor_follows_the_driver() -> None:
    driver = """
[driver]
control_channel = "aeron:ipc?alias=control"
control_stream_id = 1
announce_channel = "aeron:ipc?alias=announce"
announce_stream_id = 2
qos_channel = "aeron:ipc?alias=qos"
qos_stream_id = 3
metadata_channel = "aeron:ipc?alias=metadata"
metadata_stream_id = 4
descriptor_stream_id_range = "500-509"
control_stream_id_range = "600-699"
"""
    supervisor = settings(driver + "[supervisor]").supervisor
    assert supervisor is not None
    assert supervisor.control == Endpoint("aeron:ipc?alias=control", 1)
    assert supervisor.announce == Endpoint("aeron:ipc?alias=announce", 2)
    assert supervisor.qos == Endpoint("aeron:ipc?alias=qos", 3)
    assert supervisor.metadata == Endpoint("aeron:ipc?alias=metadata", 4)
    assert supervisor.per_consumer_descriptor == PerConsumerStreams(
        "aeron:ipc?alias=control", IdRange(500, 509)
    )
    assert supervisor.per_consumer_control == PerConsumerStreams(
        "aeron:ipc?alias=control", IdRange(600, 699)
    )
    assert (supervisor.consumer_capacity, supervisor.consumer_stale_ns) == (256, 5000 * MS)
    assert supervisor.per_consumer_enabled is False
    assert supervisor.force_no_shm is False
    assert (supervisor.force_mode, supervisor.payload_fallback_uri) == (0, "")


def test_the_supervisors_own_values_stand() -> None:
    supervisor = settings("""
[driver]
descriptor_stream_id_range = "500-509"
[supervisor]
control_stream_id = 11
qos_channel = "aeron:ipc?alias=own"
per_consumer_descriptor_channel = "aeron:ipc?alias=descriptors"
per_consumer_descriptor_base = 700
per_consumer_descriptor_range = 3
force_mode = 2
payload_fallback_uri = "bridge://x"
""").supervisor
    assert supervisor is not None
    assert supervisor.control == Endpoint(IPC, 11)
    assert supervisor.qos == Endpoint("aeron:ipc?alias=own", 1200)
    assert supervisor.per_consumer_descriptor == PerConsumerStreams(
        "aeron:ipc?alias=descriptors", IdRange(700, 702)
    )
    assert supervisor.per_consumer_control == PerConsumerStreams(IPC, None)
    assert (supervisor.force_mode, supervisor.payload_fallback_uri) == (2, "bridge://x")


def test_pools_are_sorted_by_stride() -> None:
    profile = settings(
        "[profiles.camera]\npayload_pools = [{ pool_id = 1, stride_bytes = 256 }, "
        "{ pool_id = 2, stride_bytes = 64 }]"
    ).profile("camera")
    assert profile.pools == (PoolLayout(2, 64), PoolLayout(1, 256))


def test_durations_are_nanoseconds() -> None:
    host = settings(
        "[policies]\nannounce_period_ms = 1\nlease_keepalive_interval_ms = 2\n"
        "node_id_reuse_cooldown_ms = 3\nshutdown_timeout_ms = 4\n"
        "[launcher]\nrestart_backoff_initial_ms = 5\nrestart_backoff_max_ms = 6\n"
        "crash_loop_window_ms = 7\nhang_timeout_ms = 8\n"
    )
    assert host.policies.announce_period_ns == MS
    assert host.policies.lease_keepalive_interval_ns == 2 * MS
    assert host.policies.node_id_reuse_cooldown_ns == 3 * MS
    assert host.policies.shutdown_timeout_ns == 4 * MS
    assert host.launcher.restart_backoff_initial_ns == 5 * MS
    assert host.launcher.restart_backoff_max_ns == 6 * MS
    assert host.launcher.crash_loop_window_ns == 7 * MS
    assert host.launcher.hang_timeout_ns == 8 * MS


def test_the_rest_is_passed_on() -> None:
    host = settings(
        '[shm]\nnamespace = "lab1"\npermissions_mode = "600"\n'
        '[policies]\nshutdown_token = "hush"\nmax_leases = 9\nmax_streams = 8\n'
        '[driver]\naeron_dir = "/a"\nstream_id_range = "5-6"\n'
        '[metrics]\nenabled = true\nbind_address = "::1"\n[metrics.ports]\ndriver = 9464\n'
        "[logging]\nlevel = 4\n"
    )
    assert (host.shm.namespace, host.shm.permissions_mode) == ("lab1", 0o600)
    assert host.shm.user == current_user()
    assert (host.policies.shutdown_token, "hush" in repr(host)) == ("hush", False)
    assert (host.policies.max_leases, host.policies.max_streams) == (9, 8)
    assert (host.aeron_dir, host.log_level) == ("/a", 4)
    assert host.driver.stream_id_range == IdRange(5, 6)
    assert (host.metrics.enabled, host.metrics.bind_address) == (True, "::1")
    assert dict(host.metrics.ports)["driver"] == 9464


@pytest.mark.clause("Wire §15.21a.3-2", "Driver §15-1")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ann", "ann"),
        ("a.b-c_1", "a.b-c_1"),
        ("DOM\\ann", "DOM_ann"),
        ("../../etc", "_.._.._etc"),
        (".", "_."),
        ("..", "_.."),
        ("", "_"),
        ("a/b", "a_b"),
        ("üser", "_ser"),
        ("a b|c?", "a_b_c_"),
    ],
)
def test_a_user_name_is_one_path_component(name: str, expected: str) -> None:
    assert sanitized_user(name) == expected


def test_the_built_in_default_holds_a_camera_frame_and_is_quick_to_make() -> None:
    loaded = load(None, {})
    config = loaded.config
    stream = next(one for one in config.streams.values() if one.stream_id == 10000)
    profile = config.profiles[stream.profile]
    assert max(pool.stride_bytes for pool in profile.payload_pools) >= 480 * 640 * 2
    assert epoch_bytes(profile) == sum(
        payload_pool_bytes(profile.header_nslots, pool.stride_bytes)
        for pool in profile.payload_pools
    ) + (64 + 256 * profile.header_nslots)
    assert epoch_bytes(profile) <= 40 << 20
    assert config.policies.allow_dynamic_streams is True
    assert config.driver.stream_id_range == (20000, 29999)
    assert config.supervisor is not None
    assert config.supervisor.per_consumer_enabled is True
    assert loaded.path is None
    assert loaded.sources["streams.cam1.stream_id"] == "built-in"


def test_settings_travel_to_spawned_processes_without_pydantic() -> None:
    host = to_settings(load(None, {}).config)
    code = (
        "import pickle, sys; host = pickle.loads(sys.stdin.buffer.read()); "
        "assert not {'pydantic', 'tomli', 'tensorpool.config'} & set(sys.modules); "
        "print(host.driver.control.stream_id)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(host), capture_output=True, check=False
    )
    assert (child.returncode, child.stdout) == (0, b"1000\n"), child.stderr
