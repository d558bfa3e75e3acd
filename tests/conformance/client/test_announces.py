"""Which announces a client believes, and what it then maps (Wire §10.1.1, §15.1, §15.22)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
import pytest

import tensorpool
from tensorpool import wire
from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.wire.control import ClockDomain
from tensorpool.wire.driver import ShmAttachRequest, ShmDetachRequest, ShmLeaseKeepalive
from tests.conformance.client.test_attach import await_mapped
from tests.conformance.client.test_lease_ends import polled_epoch
from tests.integration.host import RunningHost
from tests.scripted_driver import STREAM, ScriptedDriver
from tests.support import wait_until

type Happened = Callable[[str], list[str]]
REALTIME = ClockDomain.REALTIME_SYNCED


@pytest.mark.clause("Wire §10.1.1-1", "Driver §6-7", "Wire §15.2-2")
def test_the_highest_epoch_counts(driver: ScriptedDriver, pool: tensorpool.Pool) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        middle, highest = driver.new_regions(), driver.new_regions()
        driver.announce(highest)
        driver.announce(middle)
        driver.regions = highest
        await_mapped(view, driver)
        driver.announce(middle)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == highest.epoch


@pytest.mark.clause("Wire §10.1.1-2", "Wire §10.1.1-3", "Wire §15.1-3")
@pytest.mark.parametrize(
    ("domain", "now_ns", "age_ns"),
    [
        (ClockDomain.MONOTONIC, monotonic_ns, 3600 * NS_PER_S),
        (REALTIME, time_ns, 3600 * NS_PER_S),
        (REALTIME, monotonic_ns, 0),
    ],
    ids=["before the join", "old", "of another clock"],
)
def test_old_announces_are_ignored(
    driver: ScriptedDriver,
    pool: tensorpool.Pool,
    domain: ClockDomain,
    now_ns: Callable[[], int],
    age_ns: int,
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.announce(
            driver.new_regions(),
            announce_clock_domain=domain,
            announce_timestamp_ns=max(now_ns() - age_ns, 0),
        )
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == driver.regions.epoch


@pytest.mark.clause("Wire §10.1.1-3")
def test_what_was_announced_before_the_join_is_ignored_though_it_is_fresh(
    host: RunningHost, driver: ScriptedDriver
) -> None:
    before = monotonic_ns()
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.announce(driver.new_regions(), announce_timestamp_ns=before)
        driver.await_another(ShmLeaseKeepalive, 2)
        assert polled_epoch(view) == driver.regions.epoch


@pytest.mark.clause("Wire §10.1.1-4")
def test_a_synchronised_realtime_announce_has_no_join_time(
    host: RunningHost, driver: ScriptedDriver
) -> None:
    before = time_ns()
    with tensorpool.connect(host.config) as pool, pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        driver.regions = driver.new_regions()
        driver.announce(announce_clock_domain=REALTIME, announce_timestamp_ns=before)
        await_mapped(view, driver)


@pytest.mark.clause("Wire §15.1-1", "Wire §7.1-1", "Driver §4.7a-1", "Wire §15.22-5")
@pytest.mark.parametrize(
    "field",
    [
        "magic",
        "layout_version",
        "epoch",
        "stream_id",
        "region_type",
        "pool_id",
        "nslots",
        "slot_bytes",
        "stride_bytes",
    ],
)
@pytest.mark.parametrize("source", ["attach", "announce"])
def test_every_field_of_the_superblock_is_checked(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, field: str, source: str
) -> None:
    good, bad = driver.regions, driver.new_regions(**{field: 9})
    if source == "attach":
        driver.answer_with(
            epoch=bad.epoch, header_region_uri=bad.header_uri, payload_pools=bad.payload_pools
        )
    with pool.consumer(STREAM) as view:
        if source == "announce":
            await_mapped(view, driver)
            driver.announce(bad)
        wait_until(
            lambda: polled_epoch(view) != bad.epoch and happened("protocol_error"), 10, "a refusal"
        )
        assert field in happened("protocol_error")[0]
        driver.await_count(ShmDetachRequest, 1)
        await_mapped(view, driver)
        assert view.epoch == good.epoch
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert sum(str(path) in mapped for path in bad.files) == len(bad.files), "only the test's own"


@pytest.mark.clause("Wire §10.1.1-1")
def test_an_epoch_that_ended_while_its_client_was_held_up_is_no_protocol_error(
    host: RunningHost, driver: ScriptedDriver
) -> None:
    is_on, is_heard = threading.Event(), threading.Event()

    def hold_up(event: tensorpool.PoolEvent) -> None:
        if event.what == "epoch_changed":
            is_heard.set()
            is_on.wait(10)

    with (
        tensorpool.connect(host.config, on_event=hold_up) as pool,
        pool.consumer(STREAM) as view,
    ):
        await_mapped(view, driver)
        over = driver.new_regions()
        driver.announce(over)
        assert is_heard.wait(10)  # by the keeper, which then hears no more
        for path in over.files:
            path.unlink()
        ear = driver.subscription(driver.settings.driver.announce)
        driver.regions = driver.new_regions()
        driver.announce()
        told: list[int] = []

        def is_told() -> bool:
            ear.poll(lambda buffer, _: told.append(wire.decode(buffer).epoch), 10)
            return driver.regions.epoch in told

        try:
            wait_until(is_told, 10, "the announce to be there")
            await_mapped(view, driver)
        finally:
            is_on.set()
        assert "protocol_error" not in {event.what for event in pool.events}
        assert view.drops_invalid == 0
        assert len(driver.of(ShmAttachRequest)) == 1


@pytest.mark.clause("Wire §15.1-2")
def test_who_hears_of_an_epoch_before_its_announce_looks_at_the_mapped_one(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened
) -> None:
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        mapped, driver.regions = driver.regions, driver.new_regions()
        mapped.overwrite_superblocks(epoch=9)
        driver.describe(0)
        wait_until(
            lambda: polled_epoch(view) != mapped.epoch and happened("protocol_error"), 10, "a look"
        )


@pytest.mark.clause("Wire §15.1-2", "Wire §15.14-1")
@pytest.mark.parametrize("field", ["magic", "epoch", "pid"])
@pytest.mark.parametrize("role", ["consumer", "producer"])
def test_what_is_mapped_is_checked_again_at_every_announce(
    driver: ScriptedDriver, pool: tensorpool.Pool, happened: Happened, field: str, role: str
) -> None:
    with pool.producer(STREAM) if role == "producer" else pool.consumer(STREAM) as end:
        client_id = end.client_id

        def use() -> None:
            if isinstance(end, tensorpool.Consumer):
                end.poll(lambda _: None)
            else:
                end.publish(np.zeros(4, np.uint8), timeout_s=10)

        use()
        spoiled = driver.regions
        driver.regions = driver.new_regions()
        spoiled.overwrite_superblocks(**{field: 9})
        driver.announce(spoiled, producer_id=client_id)

        def is_elsewhere() -> bool:
            use()
            return end.epoch == driver.regions.epoch

        wait_until(is_elsewhere, 10, "other regions")
        assert happened("protocol_error")


@pytest.mark.clause("Driver §4.2-24", "Driver §9-2", "Wire §15.21a.5-7", "Wire §15.22-4")
@pytest.mark.parametrize("which", ["header", "pool"])
@pytest.mark.parametrize(
    "uri",
    [
        "shm:file?path={relative}",
        "file:{path}",
        "shm:mem?path={path}",
        "shm:file?path={path}|unknown=1",
        "shm:file?path={path}&require_hugepages=false",
        "shm:file?path={path}|require_hugepages=true",
        "shm:file?path={path} ",
        "shm:file?path={outside}",
        "shm:file?path={base}/../../x",
        "shm:file?path={link}",
        "shm:file?path={fifo}",
        "shm:file?path={base}",
        "shm:file?path=/dev/zero",
        "shm:file?path={missing}",
        "shm:file?path={short}",
    ],
)
def test_a_uri_that_breaks_a_rule_is_refused_and_the_attach_dropped(
    host: RunningHost,
    driver: ScriptedDriver,
    pool: tensorpool.Pool,
    happened: Happened,
    tmp_path: Path,
    uri: str,
    which: str,
) -> None:
    path = driver.regions.files[0 if which == "header" else 1]
    outside = tmp_path / "outside"
    outside.write_bytes(path.read_bytes())
    (driver.directory / "link").symlink_to(outside)
    os.mkfifo(driver.directory / "fifo")
    (driver.directory / "short").write_bytes(path.read_bytes()[:200])
    text = uri.format(
        path=path,
        relative=str(path)[1:],
        outside=outside,
        base=host.settings.shm.base_dir,
        link=driver.directory / "link",
        fifo=driver.directory / "fifo",
        missing=driver.directory / "missing",
        short=driver.directory / "short",
    )
    if which == "header":
        driver.answer_with(header_region_uri=text)
    else:
        first, *others = driver.regions.payload_pools
        driver.answer_with(payload_pools=(first._replace(region_uri=text), *others))
    inodes = [entry.stat().st_size for entry in driver.directory.iterdir()]
    with pool.consumer(STREAM) as view:
        await_mapped(view, driver)
        assert view.lease_id == driver.lease_ids[1]
        assert happened("protocol_error")
    assert [entry.stat().st_size for entry in driver.directory.iterdir()] == inodes


@pytest.mark.clause("Wire §15.22-4")
def test_regions_that_stay_refused_are_a_clear_error(
    driver: ScriptedDriver, pool: tensorpool.Pool
) -> None:
    wrong: dict[str, Any] = {"header_region_uri": "shm:file?path=/etc/passwd"}
    driver.answers.extend([lambda request: [driver.ok(request, **wrong)]] * 100)
    with pytest.raises(tensorpool.TensorPoolError, match="allowed base directories"):
        pool.producer(STREAM, timeout_s=0.3)
    driver.answers.clear()
    driver.await_count(ShmAttachRequest, 2)
    leases = {m.lease_id for m in driver.of(ShmDetachRequest)}
    assert leases == set(driver.lease_ids[: len(leases)]), "no lease is left behind"


@pytest.mark.clause("Wire §15.1-4")
def test_a_big_endian_host_is_refused() -> None:
    code = "import sys; sys.byteorder = 'big'; import tensorpool.shm.seqlock"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "big-endian" in done.stderr
