"""Rules between keys."""

import os
from pathlib import Path

import pytest

from tensorpool.config.faults import Fault, InvalidConfig
from tensorpool.config.load import validate
from tests.unit.config.documents import accepted, document, faults_of, only_fault

DYNAMIC = "[policies]\nallow_dynamic_streams = true\n"
POOL = "payload_pools = [{ pool_id = 1, stride_bytes = 64 }]"


def only_fault_of(text: str) -> Fault:
    """The one fault of a whole document."""
    with pytest.raises(InvalidConfig) as caught:
        validate(document(text, base=""), {})
    assert len(caught.value.faults) == 1, caught.value.faults
    return caught.value.faults[0]


@pytest.mark.clause("Driver §17-4")
def test_a_profile_is_needed() -> None:
    fault = only_fault_of('[driver]\nstream_id_range = "1-5"\n' + DYNAMIC)
    assert fault.where == "profiles"
    assert fault.rule == "at least one profile (Driver §17)"
    assert "[profiles.default]" in fault.remedy


@pytest.mark.clause("Driver §17-5")
def test_a_stream_is_needed_while_streams_are_static() -> None:
    fault = only_fault_of(f"[profiles.a]\n{POOL}")
    assert fault.where == "streams"
    assert "allow_dynamic_streams is false" in fault.rule
    assert "[streams.cam1]" in fault.remedy


@pytest.mark.clause("Driver §11-2")
def test_dynamic_streams_need_their_range() -> None:
    fault = only_fault(DYNAMIC)
    assert fault.where == "driver.stream_id_range"
    assert "allow_dynamic_streams is true" in fault.rule
    assert "20000-29999" in fault.remedy


def test_dynamic_streams_need_no_static_one() -> None:
    text = f'[profiles.a]\n{POOL}\n[driver]\nstream_id_range = "5-9"\n{DYNAMIC}'
    assert validate(document(text, base=""), {}).config.policies.default_profile == "a"


def test_pool_ids_are_unique_in_a_profile() -> None:
    fault = only_fault(
        "[profiles.camera]\npayload_pools = [{ pool_id = 1, stride_bytes = 64 }, "
        "{ pool_id = 2, stride_bytes = 64 }, { pool_id = 1, stride_bytes = 128 }]"
    )
    assert fault.where == "profiles.camera.payload_pools[2].pool_id"
    assert "once in a profile" in fault.rule
    assert fault.remedy.endswith("such as 3")


def test_two_profiles_may_share_a_pool_id() -> None:
    assert len(accepted(f"[profiles.b]\n{POOL}").config.profiles) == 2


def test_stream_ids_are_unique() -> None:
    fault = only_fault('[streams.cam2]\nstream_id = 10000\nprofile = "camera"')
    assert (fault.where, fault.value) == ("streams.cam2.stream_id", "10000")
    assert "streams.cam1 has it" in fault.rule


@pytest.mark.parametrize(
    ("table", "key"), [("policies", "default_profile"), ("streams.cam1", "profile")]
)
@pytest.mark.parametrize(
    ("name", "remedy"), [("camra", 'did you mean "camera"?'), ("zzz", "name one of camera")]
)
def test_profiles_that_are_named_exist(table: str, key: str, name: str, remedy: str) -> None:
    fault = only_fault(f'[{table}]\n{key} = "{name}"')
    assert (fault.where, fault.value) == (f"{table}.{key}", f'"{name}"')
    assert fault.rule == "the name of a profile"
    assert remedy in fault.remedy


def test_the_registry_holds_every_static_stream() -> None:
    fault = only_fault(
        '[policies]\nmax_streams = 1\n[streams.cam2]\nstream_id = 5\nprofile = "camera"'
    )
    assert fault.where == "policies.max_streams"
    assert "2 streams" in fault.rule
    assert fault.remedy == "write 2 or more"


@pytest.mark.clause("Driver §11-6", "Driver §11-7")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("stream_id_range", "descriptor_stream_id_range"),
        ("stream_id_range", "control_stream_id_range"),
        ("descriptor_stream_id_range", "control_stream_id_range"),
    ],
)
@pytest.mark.parametrize(
    ("first", "second"), [("50-60", "60-70"), ("50-60", "40-50"), ("50-60", "52-53")]
)
def test_the_drivers_ranges_do_not_overlap(one: str, other: str, first: str, second: str) -> None:
    fault = only_fault(f'[driver]\n{one} = "{first}"\n{other} = "{second}"')
    assert (fault.where, fault.value) == (f"driver.{other}", f'"{second}"')
    assert fault.rule == f"no overlap with driver.{one} ({first}) (Driver §11)"
    assert "move one of the two" in fault.remedy


def test_adjacent_ranges_are_fine() -> None:
    assert not faults_of(
        '[driver]\nstream_id_range = "50-59"\ndescriptor_stream_id_range = "60-60"\n'
        'control_stream_id_range = "61-61"'
    )


@pytest.mark.clause("Driver §11-6")
@pytest.mark.parametrize(
    "name", ["stream_id_range", "descriptor_stream_id_range", "control_stream_id_range"]
)
@pytest.mark.parametrize("endpoint", ["control", "announce", "qos", "metadata", "descriptor"])
def test_no_range_holds_an_endpoint_of_the_driver(name: str, endpoint: str) -> None:
    fault = only_fault(f'[driver]\n{name} = "500-600"\n{endpoint}_stream_id = 600')
    assert (fault.where, fault.value) == (f"driver.{endpoint}_stream_id", "600")
    assert fault.rule == f"no id inside driver.{name} (500-600) (Driver §11)"
    assert "outside of the range" in fault.remedy


@pytest.mark.parametrize("endpoint", ["control", "announce", "qos", "metadata"])
def test_no_range_holds_an_endpoint_of_the_supervisor(endpoint: str) -> None:
    fault = only_fault(
        f'[driver]\nstream_id_range = "500-600"\n[supervisor]\n{endpoint}_stream_id = 555'
    )
    assert fault.where == f"supervisor.{endpoint}_stream_id"
    assert "driver.stream_id_range" in fault.rule


@pytest.mark.clause("Driver §11-6")
@pytest.mark.parametrize(
    "name", ["stream_id_range", "descriptor_stream_id_range", "control_stream_id_range"]
)
def test_no_range_holds_a_static_stream(name: str) -> None:
    fault = only_fault(f'[driver]\n{name} = "9000-10000"')
    assert (fault.where, fault.value) == ("streams.cam1.stream_id", "10000")
    assert f"driver.{name} (9000-10000)" in fault.rule


PER_CONSUMER = "[supervisor]\nper_consumer_{0}_base = {1}\nper_consumer_{0}_range = {2}\n"


@pytest.mark.parametrize("what", ["descriptor", "control"])
def test_per_consumer_ranges_hold_no_other_id(what: str) -> None:
    fault = only_fault(PER_CONSUMER.format(what, 9999, 2))
    assert fault.where == "streams.cam1.stream_id"
    assert (
        fault.rule == f"no id inside supervisor.per_consumer_{what}_base (9999-10000) (Driver §11)"
    )


@pytest.mark.parametrize("what", ["descriptor", "control"])
def test_per_consumer_ranges_do_not_overlap_dynamic_streams(what: str) -> None:
    text = '[driver]\nstream_id_range = "500-600"\n' + PER_CONSUMER.format(what, 600, 10)
    fault = only_fault(text)
    assert (fault.where, fault.value) == (f"supervisor.per_consumer_{what}_base", "600")
    assert "driver.stream_id_range (500-600)" in fault.rule


BOTH = (
    "[supervisor]\nper_consumer_descriptor_base = 500\nper_consumer_descriptor_range = 10\n"
    "per_consumer_control_base = 509\nper_consumer_control_range = 10\n"
)


def test_per_consumer_descriptors_and_control_do_not_overlap() -> None:
    fault = only_fault(BOTH)
    assert fault.where == "supervisor.per_consumer_control_base"
    assert "supervisor.per_consumer_descriptor_base (500-509)" in fault.rule


def test_unless_their_channels_differ() -> None:
    assert not faults_of(BOTH + 'per_consumer_control_channel = "aeron:ipc?alias=control"')


def test_an_inherited_per_consumer_range_counts_too() -> None:
    fault = only_fault(
        '[driver]\ncontrol_stream_id_range = "500-600"\n'
        + PER_CONSUMER.format("descriptor", 600, 1)
    )
    assert fault.where == "driver.control_stream_id_range"
    assert "supervisor.per_consumer_descriptor_base (600-600)" in fault.rule


def test_per_consumer_ranges_may_equal_the_drivers() -> None:
    assert not faults_of(
        '[driver]\ndescriptor_stream_id_range = "500-509"\ncontrol_stream_id_range = "600-609"\n'
        "[supervisor]\nper_consumer_descriptor_base = 500\nper_consumer_descriptor_range = 10\n"
        "per_consumer_control_base = 600\nper_consumer_control_range = 10\n"
    )


def test_a_fault_of_an_inherited_range_is_told_once() -> None:
    fault = only_fault(
        '[driver]\ndescriptor_stream_id_range = "500-600"\nqos_stream_id = 550\n[supervisor]'
    )
    assert fault.where == "driver.qos_stream_id"


@pytest.mark.parametrize("what", ["descriptor", "control"])
@pytest.mark.parametrize(("given", "missing"), [("base", "range"), ("range", "base")])
def test_base_and_range_go_together(what: str, given: str, missing: str) -> None:
    fault = only_fault(f"[supervisor]\nper_consumer_{what}_{given} = 500")
    assert (fault.where, fault.value) == (f"supervisor.per_consumer_{what}_{missing}", "0")
    assert "go together" in fault.rule


@pytest.mark.parametrize("what", ["descriptor", "control"])
def test_a_per_consumer_range_ends_within_aerons_ids(what: str) -> None:
    fault = only_fault(PER_CONSUMER.format(what, 2147483647, 2))
    assert fault.where == f"supervisor.per_consumer_{what}_range"
    assert "2147483647" in fault.rule
    assert fault.remedy == "write 1 or less"


def test_a_leases_life_fits_its_deadline() -> None:
    fault = only_fault(
        "[policies]\nlease_keepalive_interval_ms = 4294967295\n"
        "lease_expiry_grace_intervals = 4294967295"
    )
    assert fault.where == "policies.lease_expiry_grace_intervals"
    assert "uint64 nanoseconds" in fault.rule
    assert fault.remedy == "write 734 or less, or lower the interval"


@pytest.mark.config_key("shm.allowed_base_dirs")
def test_base_dir_is_allowed() -> None:
    fault = only_fault('[shm]\nbase_dir = "/dev/shm/a"\nallowed_base_dirs = ["/dev/shm/ab"]')
    assert (fault.where, fault.value) == ("shm.allowed_base_dirs", '["/dev/shm/ab"]')
    assert "/dev/shm/a:" in fault.rule
    assert fault.remedy == 'add "/dev/shm/a"'


@pytest.mark.parametrize("allowed", ["/", "/dev/shm", "/dev/shm/a"])
def test_base_dir_may_lie_below_an_allowed_one(allowed: str) -> None:
    assert not faults_of(f'[shm]\nbase_dir = "/dev/shm/a"\nallowed_base_dirs = ["{allowed}"]')


def test_a_symlinked_base_dir_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not faults_of(
        f'[shm]\nbase_dir = "{tmp_path}/link"\nallowed_base_dirs = ["{tmp_path}/real"]'
    )


def test_a_wrong_allowed_dir_is_told_by_its_place() -> None:
    fault = only_fault('[shm]\nallowed_base_dirs = ["/dev/shm/tensorpool", "x"]')
    assert fault.where == "shm.allowed_base_dirs[1]"


def file_system_bytes(path: Path | str) -> int:
    info = os.statvfs(path)
    return info.f_blocks * info.f_frsize


def test_the_epochs_kept_fit_the_file_system() -> None:
    size = file_system_bytes("/dev/shm")
    slot = 1 << 20
    slots = 1 << (size // slot).bit_length()
    fault = only_fault(
        f"[profiles.camera]\nheader_nslots = {slots}\n"
        f"payload_pools = [{{ pool_id = 1, stride_bytes = {slot} }}]\n"
    )
    needed = 2 * (64 + slots * 256 + 64 + slots * slot)
    assert (fault.where, fault.value) == ("shm.base_dir", '"/dev/shm/tensorpool"')
    assert f"{needed} bytes" in fault.rule
    assert f"has {size}" in fault.rule
    assert "epoch_gc_keep = 2" in fault.rule
    assert "larger file system" in fault.remedy


def test_a_profile_without_a_stream_takes_no_space() -> None:
    assert not faults_of(
        "[profiles.huge]\nheader_nslots = 16777216\n"
        "payload_pools = [{ pool_id = 1, stride_bytes = 1048576 }]\n"
    )


def test_a_base_dir_that_is_not_there_yet_is_judged_by_what_is_above(tmp_path: Path) -> None:
    fault = only_fault(
        f'[shm]\nbase_dir = "{tmp_path}/a/b/c"\n'
        "[profiles.camera]\nheader_nslots = 67108864\n"
        "payload_pools = [{ pool_id = 1, stride_bytes = 1048576 }]\n"
    )
    assert f"{tmp_path} has {file_system_bytes(tmp_path)}" in fault.rule


def test_a_pool_fits_an_address_space() -> None:
    fault = only_fault(
        "[profiles.huge]\nheader_nslots = 2147483648\n"
        "payload_pools = [{ pool_id = 1, stride_bytes = 131072 }]\n"
    )
    assert fault.where == "profiles.huge.payload_pools[0].stride_bytes"
    assert "an address space" in fault.rule
    assert "profiles.huge.header_nslots" in fault.remedy


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        ("publication_unblock_timeout_ms", "client_liveness_timeout_ms"),
        ("client_liveness_timeout_ms", "timer_interval_ms"),
        ("untethered_window_limit_timeout_ms", "timer_interval_ms"),
        ("untethered_linger_timeout_ms", "timer_interval_ms"),
        ("untethered_resting_timeout_ms", "timer_interval_ms"),
    ],
)
def test_aerons_own_conditions(longer: str, shorter: str) -> None:
    bound = getattr(accepted().config.media_driver, shorter)
    fault = only_fault(f"[media_driver]\n{longer} = {bound}")
    assert (fault.where, fault.value) == (f"media_driver.{longer}", str(bound))
    assert f"media_driver.{shorter}, {bound}" in fault.rule
    assert f"write {bound + 1} or more" in fault.remedy


def test_the_longest_back_off_is_not_below_the_first() -> None:
    fault = only_fault("[launcher]\nrestart_backoff_max_ms = 49")
    assert fault.where == "launcher.restart_backoff_max_ms"
    assert "restart_backoff_initial_ms, 50" in fault.rule
    assert fault.remedy == "write 50 or more"


def test_ports_differ_unless_ephemeral() -> None:
    fault = only_fault("[metrics.ports]\ndriver = 9464\ngc = 9464\nlauncher = 0")
    assert (fault.where, fault.value) == ("metrics.ports.gc", "9464")
    assert "metrics.ports.driver has it" in fault.rule


def test_all_faults_are_told_at_once_and_each_only_once() -> None:
    text = """
[driver]
control_stream_id = "x"
stream_id_range = [30000, 20000]
descriptor_stream_id_range = "1150-1250"
contol_channel = "aeron:ipc"

[shm]
permissions_mode = "666"

[policies]
allow_dynamic_streams = true
lease_expiry_grace_intervals = 0

[profiles.camera]
header_nslots = 63
payload_pools = [
  { pool_id = 1, stride_bytes = 65 },
  { pool_id = 1, stride_bytes = 64 },
  { pool_id = "1", stride_bytes = 64 },
]

[profiles.none]

[streams.cam1]
stream_id = 1000
profile = "none"

[streams.cam2]
stream_id = 1000

[supervisor]
force_mode = 7
"""
    assert {fault.where for fault in faults_of(text, {"LAUNCHER_HANG_TIMEOUT_MS": "never"})} == {
        "driver.control_stream_id",
        "driver.stream_id_range",
        "driver.qos_stream_id",
        "driver.contol_channel",
        "shm.permissions_mode",
        "policies.lease_expiry_grace_intervals",
        "profiles.camera.header_nslots",
        "profiles.camera.payload_pools[0].stride_bytes",
        "profiles.camera.payload_pools[1].pool_id",
        "profiles.camera.payload_pools[2].pool_id",
        "profiles.none.payload_pools",
        "streams.cam2.stream_id",
        "streams.cam2.profile",
        "supervisor.force_mode",
        "LAUNCHER_HANG_TIMEOUT_MS",
    }
    faults = faults_of(text)
    assert len({(fault.where, fault.rule) for fault in faults}) == len(faults)


@pytest.mark.parametrize(
    "text",
    [
        "[policies]\nallow_dynamic_streams = true\n[driver]\nstream_id_range = 5",
        '[shm]\nbase_dir = "x"\nallowed_base_dirs = ["/dev/shm"]',
        '[policies]\ndefault_profile = "b"\n[profiles.b]\nheader_nslots = 64',
        "[media_driver]\ntimer_interval_ms = 0",
        "[streams]\ncam1 = 5",
    ],
)
def test_no_fault_for_what_only_follows_from_another(text: str) -> None:
    only_fault(text)
