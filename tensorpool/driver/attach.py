"""The rules of attaching: may this client have this lease? (Driver §4.2 to §4.6, §5, §11).

Pure judgement, no effect: the first broken rule decides, with its response code and a
diagnostic that says what to do.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tensorpool.driver.leases import Lease, LeaseTable
from tensorpool.driver.streams import Stream, StreamTable
from tensorpool.settings import HostSettings
from tensorpool.shm.backing import Backing
from tensorpool.shm.layout import LAYOUT_VERSION
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import HugepagesPolicy, PublishMode, Role, ShmAttachRequest

CLIENT_ID_TAKEN = "client_id already attached"
"""Clients with automatic ids look for exactly this text (Driver §B.2)."""


class RejectReason(enum.Enum):
    """Why an attach is refused: a word for the metrics, and the response code (Driver §4.6)."""

    SCHEMA_VERSION = ("schema_version", ResponseCode.UNSUPPORTED)
    CLIENT_ID_ZERO = ("client_id_zero", ResponseCode.INVALID_PARAMS)
    ROLE = ("role", ResponseCode.INVALID_PARAMS)
    PUBLISH_MODE = ("publish_mode", ResponseCode.UNSUPPORTED)
    HUGEPAGES_POLICY = ("hugepages_policy", ResponseCode.INVALID_PARAMS)
    NO_REGIONS = ("no_regions", ResponseCode.REJECTED)
    NO_STREAM = ("no_stream", ResponseCode.REJECTED)
    NOT_DYNAMIC = ("not_dynamic", ResponseCode.REJECTED)
    NO_STREAM_RANGE = ("no_stream_range", ResponseCode.INVALID_PARAMS)
    CONSUMER_OF_NEW = ("consumer_of_new", ResponseCode.INVALID_PARAMS)
    OUT_OF_RANGE = ("out_of_range", ResponseCode.REJECTED)
    STREAMS_FULL = ("streams_full", ResponseCode.REJECTED)
    RANGE_EXHAUSTED = ("range_exhausted", ResponseCode.REJECTED)
    LAYOUT_VERSION = ("layout_version", ResponseCode.REJECTED)
    BACKING = ("backing", ResponseCode.REJECTED)
    CLIENT_ID_TAKEN = ("client_id_taken", ResponseCode.REJECTED)
    PRODUCER_TAKEN = ("producer_taken", ResponseCode.REJECTED)
    NODE_ID_TAKEN = ("node_id_taken", ResponseCode.REJECTED)
    LEASES_FULL = ("leases_full", ResponseCode.REJECTED)
    DRAINING = ("draining", ResponseCode.REJECTED)
    PROVISIONING = ("provisioning", ResponseCode.INTERNAL_ERROR)

    @property
    def word(self) -> str:
        """As the metrics' label has it."""
        return self.value[0]

    @property
    def code(self) -> ResponseCode:
        """As the response has it."""
        return self.value[1]


class Rejection(Exception):
    """The answer "no": reason and diagnostic."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def code(self) -> ResponseCode:
        """As the response has it."""
        return self.reason.code


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer "yes".

    Attributes:
        stream: the stream, or None if a dynamic one is to be made.
        stream_id: its id.
        superseded: a lease of the same client that ends first (design §4.12).
        node_id: to be given.
    """

    stream: Stream | None
    stream_id: int
    role: Role
    superseded: Lease | None
    node_id: int


class AttachRules:
    """Judges attach requests against the tables.

    Args:
        settings: the host's settings.
        backing: what stands behind the base directory.
    """

    def __init__(
        self, settings: HostSettings, backing: Backing, streams: StreamTable, leases: LeaseTable
    ) -> None:
        self._policies = settings.policies
        self._driver = settings.driver
        self._shm = settings.shm
        self._backing = backing
        self._streams = streams
        self._leases = leases

    def judge(self, request: ShmAttachRequest, session_id: int, now_ns: int) -> Admission:
        """The admission.

        Raises:
            Rejection: the first broken rule.
        """
        role = self._check_form(request)
        stream_id, stream = self._find_stream(request, role)
        self._check_layout(request)
        self._check_backing(request)
        superseded = self._check_client(request.client_id, session_id, now_ns)
        self._check_producer(stream, role, superseded)
        node_id = self._choose_node_id(request, superseded, now_ns)
        if self._leases.is_full and superseded is None:
            raise Rejection(
                RejectReason.LEASES_FULL,
                f"all {len(self._leases)} leases are taken; raise policies.max_leases",
            )
        return Admission(stream, stream_id, role, superseded, node_id)

    @staticmethod
    def _check_form(request: ShmAttachRequest) -> Role:
        if request.client_id == 0:
            raise Rejection(
                RejectReason.CLIENT_ID_ZERO, "client_id 0: choose a non-zero id (Driver B.2)"
            )
        if request.role not in Role:
            raise Rejection(
                RejectReason.ROLE,
                f"role {request.role}: must be 1 (PRODUCER) or 2 (CONSUMER)",
            )
        if request.publish_mode is not None and request.publish_mode not in PublishMode:
            raise Rejection(
                RejectReason.PUBLISH_MODE,
                f"publishMode {request.publish_mode}: must be 1 (REQUIRE_EXISTING) or "
                "2 (EXISTING_OR_CREATE)",
            )
        if request.require_hugepages not in HugepagesPolicy:
            raise Rejection(
                RejectReason.HUGEPAGES_POLICY,
                f"requireHugepages {request.require_hugepages}: must be 0, 1 or 2",
            )
        return Role(request.role)

    def _find_stream(self, request: ShmAttachRequest, role: Role) -> tuple[int, Stream | None]:
        stream = self._streams.get(request.stream_id)
        may_create = request.publish_mode == PublishMode.EXISTING_OR_CREATE
        if stream is not None:
            if stream.epoch is None and not stream.is_provisioning and not may_create:
                raise Rejection(
                    RejectReason.NO_REGIONS,
                    f"stream {stream.stream_id} has no regions; attach with "
                    "publishMode EXISTING_OR_CREATE",
                )
            return stream.stream_id, stream
        if not may_create:
            raise Rejection(
                RejectReason.NO_STREAM,
                f"stream {request.stream_id} does not exist; configure it under [streams], or "
                "attach with publishMode EXISTING_OR_CREATE",
            )
        chosen = self._choose_dynamic_id(request.stream_id, role)
        return chosen, self._streams.get(chosen)

    def _choose_dynamic_id(self, wanted: int, role: Role) -> int:
        if not self._policies.allow_dynamic_streams:
            raise Rejection(
                RejectReason.NOT_DYNAMIC,
                f"stream {wanted} is not configured and policies.allow_dynamic_streams is false",
            )
        ids = self._driver.stream_id_range
        if ids is None:
            raise Rejection(
                RejectReason.NO_STREAM_RANGE,
                "driver.stream_id_range is not set: no dynamic stream can be made",
            )
        if wanted == 0 and role is not Role.PRODUCER:
            raise Rejection(
                RejectReason.CONSUMER_OF_NEW,
                "stream_id 0 asks for a new stream, which only a producer can do",
            )
        if wanted != 0 and wanted not in ids:
            raise Rejection(
                RejectReason.OUT_OF_RANGE,
                f"stream {wanted} is neither configured nor in driver.stream_id_range "
                f"{ids.first}-{ids.last}",
            )
        if not self._streams.has_room:
            raise Rejection(
                RejectReason.STREAMS_FULL,
                f"all {len(self._streams)} streams are in use; raise policies.max_streams",
            )
        chosen = wanted or self._streams.free_id(ids)
        if chosen is None:
            raise Rejection(
                RejectReason.RANGE_EXHAUSTED,
                f"driver.stream_id_range {ids.first}-{ids.last} is exhausted",
            )
        return chosen

    @staticmethod
    def _check_layout(request: ShmAttachRequest) -> None:
        expected = request.expected_layout_version
        if expected not in {0, LAYOUT_VERSION}:
            raise Rejection(
                RejectReason.LAYOUT_VERSION,
                f"expectedLayoutVersion {expected}: the layout version here is {LAYOUT_VERSION}",
            )

    def _check_backing(self, request: ShmAttachRequest) -> None:
        huge = self._backing.is_hugetlbfs
        wants_huge = request.require_hugepages == HugepagesPolicy.HUGEPAGES or (
            request.require_hugepages == HugepagesPolicy.UNSPECIFIED and self._shm.require_hugepages
        )
        if wants_huge and not huge:
            raise Rejection(
                RejectReason.BACKING,
                f"huge pages are required, but shm.base_dir {self._shm.base_dir} is not on "
                "hugetlbfs; point it at a hugetlbfs mount",
            )
        if wants_huge and self._backing.page_size_bytes != self._shm.page_size_bytes:
            raise Rejection(
                RejectReason.BACKING,
                f"huge pages of {self._backing.page_size_bytes} bytes, but shm.page_size_bytes "
                f"is {self._shm.page_size_bytes}",
            )
        if request.require_hugepages == HugepagesPolicy.STANDARD and huge:
            raise Rejection(
                RejectReason.BACKING,
                f"standard pages are required, but shm.base_dir {self._shm.base_dir} is on "
                "hugetlbfs",
            )

    def _check_client(self, client_id: int, session_id: int, now_ns: int) -> Lease | None:
        """The client's former lease if this attach supersedes it (design §4.12)."""
        lease = self._leases.of_client(client_id)
        if lease is None:
            return None
        interval = self._policies.lease_keepalive_interval_ns
        is_overdue = lease.is_granted and now_ns - lease.keepalive_ns > interval + interval // 4
        # C clients of one host share one Aeron session, so a session that differs proves a
        # successor, but one that is the same proves nothing.
        if is_overdue or (lease.is_orphaned and lease.session_id != session_id):
            return lease
        raise Rejection(RejectReason.CLIENT_ID_TAKEN, CLIENT_ID_TAKEN)

    @staticmethod
    def _check_producer(stream: Stream | None, role: Role, superseded: Lease | None) -> None:
        if role is not Role.PRODUCER or stream is None or stream.producer in (None, superseded):
            return
        assert stream.producer is not None
        raise Rejection(
            RejectReason.PRODUCER_TAKEN,
            f"stream {stream.stream_id} has a producer already: "
            f"client {stream.producer.client_id} (Driver 5: one at a time)",
        )

    def _choose_node_id(
        self, request: ShmAttachRequest, superseded: Lease | None, now_ns: int
    ) -> int:
        desired = request.desired_node_id
        node_ids = self._leases.node_ids
        if desired is None:
            return node_ids.choose(now_ns=now_ns)
        own = superseded is not None and superseded.node_id == desired
        if not own and not node_ids.is_available(desired, now_ns=now_ns):
            raise Rejection(
                RejectReason.NODE_ID_TAKEN,
                f"desiredNodeId {desired} is in use or cooling down "
                "(policies.node_id_reuse_cooldown_ms)",
            )
        return desired
