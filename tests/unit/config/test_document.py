"""`docs/configuration.md` cannot drift from the models."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli

from tensorpool.config.load import validate
from tensorpool.config.operations import HostConfig
from tensorpool.config.reference import reference
from tensorpool.config.show import effective
from tensorpool.config.tree import item_of, keys

type Document = dict[str, Any]

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"
SEED_KEYS = {
    "driver": "control_channel control_stream_id announce_channel announce_stream_id qos_channel "
    "qos_stream_id stream_id_range descriptor_stream_id_range control_stream_id_range",
    "shm": "base_dir namespace require_hugepages page_size_bytes permissions_mode "
    "allowed_base_dirs",
    "policies": "allow_dynamic_streams default_profile announce_period_ms "
    "lease_keepalive_interval_ms lease_expiry_grace_intervals node_id_reuse_cooldown_ms "
    "prefault_shm mlock_shm epoch_gc_enabled epoch_gc_keep epoch_gc_min_age_ns "
    "epoch_gc_on_startup",
    "profiles.camera": "header_nslots payload_pools",
    "streams.cam1": "stream_id profile",
    "supervisor": "control_channel control_stream_id announce_channel announce_stream_id "
    "metadata_channel metadata_stream_id qos_channel qos_stream_id consumer_capacity "
    "consumer_stale_ms per_consumer_enabled per_consumer_descriptor_channel "
    "per_consumer_descriptor_base per_consumer_descriptor_range per_consumer_control_channel "
    "per_consumer_control_base per_consumer_control_range force_no_shm force_mode "
    "payload_fallback_uri",
}


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture
def printed(text: str) -> Document:
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    return tomli.loads(blocks[0])


def at(document: Document, path: Sequence[str]) -> Any:
    for part in path:
        document = document[part]
    return document


def test_the_file_that_is_printed_loads(printed: Document) -> None:
    assert validate(printed, {}).config.streams["cam1"].stream_id == 10000


@pytest.mark.clause("Driver §4.4-6")
def test_it_holds_every_key_of_the_models(printed: Document) -> None:
    for key in keys(HostConfig, printed):
        assert key.path[-1] in at(printed, key.path[:-1]), key.path
        item = item_of(key.field)
        if item is not None:
            for entry in at(printed, key.path):
                assert entry.keys() == item.model_fields.keys()


def test_it_holds_every_key_of_the_seed(printed: Document) -> None:
    for table, names in SEED_KEYS.items():
        assert set(names.split()) <= at(printed, table.split(".")).keys(), table


def test_values_that_it_calls_defaults_are(printed: Document) -> None:
    # Everything that the built-in defaults give for the same required keys, and these.
    chosen = {
        "driver.announce_stream_id",
        "driver.stream_id_range",
        "driver.descriptor_stream_id_range",
        "driver.control_stream_id_range",
        "policies.allow_dynamic_streams",
        "profiles.camera.header_nslots",
        "supervisor.per_consumer_enabled",
    }
    bare: Document = {
        "profiles": {"camera": {"payload_pools": printed["profiles"]["camera"]["payload_pools"]}},
        "streams": printed["streams"],
        "driver": {
            name: printed["driver"][name]
            for name in (
                "announce_stream_id",
                "descriptor_stream_id_range",
                "control_stream_id_range",
            )
        },
        "supervisor": {},
    }
    defaults = {row.key: row.text for row in effective(validate(bare, {}))}
    shown = {row.key: row.text for row in effective(validate(printed, {}))}
    differing = {key for key in shown if shown[key] != defaults[key]}
    assert differing <= chosen


def test_the_tables_are_those_of_the_models(text: str) -> None:
    begin, end = "<!-- reference: begin -->", "<!-- reference: end -->"
    inside = text.split(begin)[1].split(end, maxsplit=1)[0].strip()
    assert inside == reference(), "run python -m tensorpool.config.reference, and paste"


def test_the_tables_name_every_variable() -> None:
    rows = reference()
    for key in keys(HostConfig):
        for name in key.variables:
            assert f"`{name}`" in rows
    assert "`PROFILES_<NAME>_HEADER_NSLOTS`" in rows
    assert "`STREAMS_<NAME>_STREAM_ID`" in rows


@pytest.mark.clause("Driver §4.4-6")
def test_every_key_is_described() -> None:
    for key in keys(HostConfig, {"profiles": {"a": {}}, "streams": {"a": {}}}):
        assert key.field.description, key.path
        assert key.field.description.endswith(".")
