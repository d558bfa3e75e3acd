"""What producer and consumer share: a lease, its current mapping, and waiting for both.

Each is for one thread at a time (`OneUser`). A forked child is refused (`ForkedProcess`): its
keeper's connection number changes, so the two comparisons of the fast path notice it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tensorpool.client import fork
from tensorpool.client.errors import AttachRejected, LeaseLost, NoDriver, PoolClosed
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.lease import ClientLease, LeaseStatus, choose_client_id
from tensorpool.client.mapping import EpochRegions, MappedEpoch
from tensorpool.client.talk import Talk
from tensorpool.client.usage import CLOSE_PATIENCE_S, OneUser
from tensorpool.shm.errors import ShmError
from tensorpool.shm.paths import canonical_bases
from tensorpool.wire.driver import PublishMode, Role

DETACH_TIMEOUT_S = 0.5


class Attachment:
    """One lease with its mapping; a context manager. For one thread at a time."""

    _role: Role
    _writable: bool

    def __init__(
        self,
        keeper: LeaseKeeper,
        stream_id: int,
        talk: Talk,
        *,
        client_id: int | None,
        timeout_s: float,
    ) -> None:
        self._keeper = keeper
        self._user = OneUser(self._role.name.lower())
        self._bases = canonical_bases(keeper.settings.shm.allowed_base_dirs)
        self._lease = ClientLease(
            stream_id,
            self._role,
            client_id or choose_client_id(),
            client_id is not None,
            PublishMode.EXISTING_OR_CREATE,
            talk,
        )
        self._mapped: MappedEpoch | None = None
        self._version = -1
        self._connection = 0
        self._is_closed = False
        self._timeout_s = timeout_s
        keeper.add(self._lease)
        try:
            self._await_lease(timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def stream_id(self) -> int:
        """The stream's id; chosen by the driver if 0 was asked for."""
        return self._lease.stream_id

    @property
    def client_id(self) -> int:
        """This attachment's client id."""
        return self._lease.client_id

    @property
    def lease_id(self) -> int:
        """The current lease's id."""
        return self._lease.lease_id

    @property
    def epoch(self) -> int:
        """The mapped epoch, 0 while there is none."""
        return self._mapped.epoch if self._mapped is not None else 0

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Detach and let go; idempotent. Frames handed out keep their memory."""
        if self._is_closed or self._keeper.is_forked:
            return  # a forked child leaves its parent's lease alone
        self._is_closed = True
        with self._lease.changed:
            self._lease.bump()  # a use by another thread ends now
        self._user.wait_free(CLOSE_PATIENCE_S)
        self._on_unmap()
        self._mapped = None
        self._keeper.release(self._lease, DETACH_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _await_lease(self, timeout_s: float | None) -> None:
        """Wait until there is a lease.

        Raises:
            ForkedProcess, PoolClosed: nothing can be waited for.
            AttachRejected: the driver refused, and time is up or no retry can help.
            NoDriver: nobody answered in time.
            LeaseLost: `timeout_s` is 0 and there is none.
        """
        self._keeper.check_usable()
        lease = self._lease
        with lease.changed:
            lease.changed.wait_for(
                lambda: (
                    self._is_closed
                    or lease.status in (LeaseStatus.ATTACHED, LeaseStatus.CLOSED)
                    or (
                        lease.attaches == 0
                        and isinstance(lease.error, AttachRejected)
                        and not _may_pass(lease)
                    )
                ),
                timeout_s,
            )
            if self._is_closed or lease.status is LeaseStatus.CLOSED:
                raise PoolClosed("the pool or this attachment was closed")
            if lease.status is LeaseStatus.ATTACHED:
                return
            if isinstance(lease.error, AttachRejected):
                raise lease.error
            if lease.attaches or lease.error is not None:
                why = "" if lease.error is None else f": {lease.error}"
                raise LeaseLost(
                    f"stream {lease.stream_id}: no lease could be had within {timeout_s} s{why}"
                ) from lease.error
            raise NoDriver(
                f"stream {lease.stream_id}: no driver answered within {timeout_s} s; is "
                "`tensorpool up` running with the same configuration? (`tensorpool status`) If it "
                "is making regions of gigabytes still, a longer timeout_s waits for them"
            )

    def _refresh(self) -> MappedEpoch | None:
        """The current mapping after whatever changed; None while there is nothing to map.

        Raises:
            ShmError: the regions break a rule; they are not mapped, and the lease is dropped.
        """
        lease = self._lease
        if self._keeper.is_forked:
            raise fork.refuse()
        if self._is_closed:
            raise PoolClosed("this attachment was closed")
        with lease.changed:
            version, regions = lease.version, lease.regions
        if version != self._version:
            self._version = version
            try:
                self._follow(regions)
            except ShmError as error:
                self._mapped = None
                if self._keeper.drop(lease, regions, error):
                    raise
        return self._mapped

    def _follow(self, regions: EpochRegions | None) -> None:
        mapped = self._mapped
        if regions is not None and mapped is not None and mapped.epoch == regions.epoch:
            mapped.check_again()
            return
        self._on_unmap()
        self._mapped = None
        if regions is not None:
            self._mapped = MappedEpoch(regions, self._bases, writable=self._writable)
            self._on_map()

    def _on_map(self) -> None:
        """A new epoch was mapped: forget everything about the former one."""

    def _on_unmap(self) -> None:
        """The mapping must not be used any more."""


def _may_pass(lease: ClientLease) -> bool:
    """Whether a refusal of a first attach can pass by itself.

    Another id is drawn for one that is taken. A fixed id is free as soon as the lease that a
    predecessor left behind is superseded (design §4.12).
    """
    return "client_id already attached" in str(lease.error)
