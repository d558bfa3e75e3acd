"""Every rule of attaching, broken one at a time: code and diagnostic (Driver §4.2, §4.3, §4.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tensorpool.config import load, to_settings
from tensorpool.driver.attach import CLIENT_ID_TAKEN, AttachRules, Rejection
from tensorpool.driver.leases import LeaseTable
from tensorpool.driver.node_ids import NodeIds
from tensorpool.driver.streams import Stream, StreamTable
from tensorpool.settings import HostSettings, IdRange
from tensorpool.shm.backing import Backing
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import HugepagesPolicy, PublishMode, Role, ShmAttachRequest

NOW = 10**12
SESSION = 5
STATIC = 10000


class Bench:
    """Tables with one static stream, and the rules over them."""

    def __init__(self, *, huge: bool = False, max_leases: int = 4) -> None:
        base = to_settings(load(None, {}).config)
        self.settings: HostSettings = replace(
            base,
            policies=replace(base.policies, allow_dynamic_streams=True, max_leases=max_leases),
            driver=replace(base.driver, stream_id_range=IdRange(20000, 20002)),
        )
        self.backing = Backing(is_hugetlbfs=huge, page_size_bytes=2 << 20 if huge else 4096)
        self.streams = StreamTable(3)
        self.leases = LeaseTable(max_leases, 1, NodeIds(1000))
        self.stream = self.add_stream(STATIC)
        self.stream.is_provisioning = True

    def add_stream(self, stream_id: int, *, is_static: bool = True) -> Stream:
        profile = self.settings.profiles[0]
        return self.streams.add(stream_id, f"s{stream_id}", profile, is_static=is_static)

    def judge(self, request: ShmAttachRequest, session: int = SESSION) -> object:
        rules = AttachRules(self.settings, self.backing, self.streams, self.leases)
        return rules.judge(request, session, NOW)

    def refuse(self, request: ShmAttachRequest, session: int = SESSION) -> Rejection:
        with pytest.raises(Rejection) as caught:
            self.judge(request, session)
        return caught.value

    def occupy(self, client_id: int, role: Role = Role.CONSUMER, *, granted: bool = True) -> None:
        node_id = self.leases.node_ids.choose(now_ns=NOW)
        lease = self.leases.reserve(
            stream_id=STATIC, client_id=client_id, role=role, node_id=node_id, session_id=SESSION
        )
        if role is Role.PRODUCER:
            self.stream.producer = lease
        if granted:
            self.leases.grant(lease, epoch=1, now_ns=NOW, ttl_ns=10**9)


def request(**changes: object) -> ShmAttachRequest:
    plain = ShmAttachRequest(
        1, STATIC, 77, Role.CONSUMER, publish_mode=PublishMode.EXISTING_OR_CREATE
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code", "fragment"),
    [
        ({"client_id": 0}, ResponseCode.INVALID_PARAMS, "client_id 0"),
        ({"role": 0}, ResponseCode.INVALID_PARAMS, "role 0"),
        ({"role": 3}, ResponseCode.INVALID_PARAMS, "role 3"),
        ({"publish_mode": 9}, ResponseCode.UNSUPPORTED, "publishMode 9"),
        ({"require_hugepages": 3}, ResponseCode.INVALID_PARAMS, "requireHugepages 3"),
        ({"expected_layout_version": 2}, ResponseCode.REJECTED, "layout version here is 1"),
        ({"require_hugepages": HugepagesPolicy.HUGEPAGES}, ResponseCode.REJECTED, "hugetlbfs"),
        ({"stream_id": 20001, "publish_mode": None}, ResponseCode.REJECTED, "does not exist"),
        ({"stream_id": 20001, "publish_mode": 1}, ResponseCode.REJECTED, "does not exist"),
        ({"stream_id": 19999}, ResponseCode.REJECTED, "20000-20002"),
        ({"stream_id": 0}, ResponseCode.INVALID_PARAMS, "only a producer"),
    ],
)
def test_refused_with_code_and_reason(
    changes: dict[str, object], code: ResponseCode, fragment: str
) -> None:
    rejection = Bench().refuse(request(**changes))
    assert rejection.code == code
    assert fragment in rejection.message


@pytest.mark.parametrize("changes", [{}, {"expected_layout_version": 1}, {"publish_mode": 1}])
def test_admitted(changes: dict[str, object]) -> None:
    assert Bench().judge(request(**changes))


def test_no_dynamic_streams_when_the_policy_forbids_them() -> None:
    bench = Bench()
    policies = replace(bench.settings.policies, allow_dynamic_streams=False)
    bench.settings = replace(bench.settings, policies=policies)
    rejection = bench.refuse(request(stream_id=20001))
    assert rejection.code == ResponseCode.REJECTED
    assert "allow_dynamic_streams" in rejection.message


@pytest.mark.clause("Driver §11-2", "Driver §4.6-3")
def test_no_range_is_invalid_params() -> None:
    bench = Bench()
    bench.settings = replace(
        bench.settings, driver=replace(bench.settings.driver, stream_id_range=None)
    )
    assert bench.refuse(request(stream_id=20001)).code == ResponseCode.INVALID_PARAMS


def test_stream_id_zero_gives_a_producer_the_lowest_free_id() -> None:
    bench = Bench()
    admission = bench.judge(request(stream_id=0, role=Role.PRODUCER))
    assert getattr(admission, "stream_id") == 20000  # noqa: B009


def test_exhausted_streams_are_refused_while_none_is_idle() -> None:
    bench = Bench()
    for stream_id in (20000, 20001):
        bench.add_stream(stream_id, is_static=False).is_provisioning = True
    rejection = bench.refuse(request(stream_id=20002))
    assert rejection.code == ResponseCode.REJECTED
    assert "max_streams" in rejection.message


def test_an_idle_dynamic_stream_makes_room() -> None:
    bench = Bench()
    for stream_id in (20000, 20001):
        bench.add_stream(stream_id, is_static=False)
    assert bench.judge(request(stream_id=20002))


def test_second_producer_is_rejected_and_the_first_is_named() -> None:
    bench = Bench()
    bench.occupy(42, Role.PRODUCER)
    rejection = bench.refuse(request(role=Role.PRODUCER))
    assert rejection.code == ResponseCode.REJECTED
    assert "client 42" in rejection.message


@pytest.mark.clause("Driver §5-1")
def test_a_pending_producer_excludes_another() -> None:
    bench = Bench()
    bench.occupy(42, Role.PRODUCER, granted=False)
    assert bench.refuse(request(role=Role.PRODUCER)).code == ResponseCode.REJECTED


@pytest.mark.clause("Driver §4.8-4")
def test_client_id_in_use_has_the_text_that_clients_look_for() -> None:
    bench = Bench()
    bench.occupy(77)
    rejection = bench.refuse(request(), session=SESSION + 1)
    assert (rejection.code, rejection.message) == (ResponseCode.REJECTED, CLIENT_ID_TAKEN)


def test_an_orphan_is_superseded_from_a_new_session_only() -> None:
    bench = Bench()
    bench.occupy(77)
    lease = bench.leases.of_client(77)
    assert lease is not None
    bench.leases.orphan(lease, deadline_ns=NOW + 1)
    assert bench.refuse(request()).message == CLIENT_ID_TAKEN
    admission = bench.judge(request(), session=SESSION + 1)
    assert getattr(admission, "superseded") is lease  # noqa: B009


def test_a_client_that_missed_its_keepalive_yields_to_its_successor() -> None:
    bench = Bench()
    bench.occupy(77)
    lease = bench.leases.of_client(77)
    assert lease is not None
    lease.keepalive_ns = NOW - 2 * bench.settings.policies.lease_keepalive_interval_ns
    for session in (SESSION, SESSION + 1):
        assert bench.judge(request(), session=session)


def test_desired_node_id_honoured_or_refused() -> None:
    bench = Bench()
    bench.occupy(42)
    taken = next(iter(bench.leases)).node_id
    assert bench.refuse(request(desired_node_id=taken)).code == ResponseCode.REJECTED
    admission = bench.judge(request(desired_node_id=900))
    assert getattr(admission, "node_id") == 900  # noqa: B009


def test_full_lease_table_names_the_key() -> None:
    bench = Bench(max_leases=1)
    bench.occupy(42)
    assert "policies.max_leases" in bench.refuse(request()).message


@pytest.mark.clause("Driver §4.3-5")
def test_standard_pages_refused_on_hugetlbfs() -> None:
    bench = Bench(huge=True)
    rejection = bench.refuse(request(require_hugepages=HugepagesPolicy.STANDARD))
    assert rejection.code == ResponseCode.REJECTED


@pytest.mark.clause("Driver §4.3-4")
@pytest.mark.config_key("shm.page_size_bytes")
def test_huge_pages_of_another_size_refused() -> None:
    bench = Bench(huge=True)
    rejection = bench.refuse(request(require_hugepages=HugepagesPolicy.HUGEPAGES))
    assert "page_size_bytes" in rejection.message
    shm = replace(bench.settings.shm, page_size_bytes=2 << 20)
    bench.settings = replace(bench.settings, shm=shm)
    assert bench.judge(request(require_hugepages=HugepagesPolicy.HUGEPAGES))
