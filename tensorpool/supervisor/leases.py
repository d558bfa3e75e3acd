"""Which consumers hold a lease, read from the registry.

An Aeron session does not tell one consumer from another: publications of one IPC stream
share one session, whichever processes they are in. A lease does, since a consumer attaches
with its consumer id as the client id, and never gets the same lease id twice (Driver §4.8).
"""

from __future__ import annotations

from tensorpool.registry import DriverState, LeaseState, RegistryError, RegistryReader
from tensorpool.supervisor.consumers import ConsumerKey
from tensorpool.wire.driver import Role

_LIVE = frozenset({LeaseState.ACTIVE, LeaseState.ORPHANED})


class LeaseWatch:
    """The leases in the registry at `path`, one driver's file after another.

    Attributes:
        generation: how many registries were opened so far; a new one knows no former lease.
    """

    def __init__(self, path: str) -> None:
        self.generation = 0
        self._path = path
        self._reader: RegistryReader | None = None

    def read(self) -> dict[ConsumerKey, int] | None:
        """Lease id by stream and client id of every consumer; None while no driver serves."""
        try:
            reader = self._open()
            if reader.state is not DriverState.SERVING or not reader.is_writer_alive():
                return None
            return {
                (lease.stream_id, lease.client_id): lease.lease_id
                for lease in reader.leases()
                if lease.role == Role.CONSUMER and lease.state in _LIVE
            }
        except RegistryError:  # none there, or damaged: then it says nothing
            return None

    def close(self) -> None:
        """Let go of the registry."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> RegistryReader:
        if self._reader is not None:
            if not self._reader.is_replaced:
                return self._reader
            self.close()
        self._reader = RegistryReader(self._path)
        self.generation += 1
        return self._reader
