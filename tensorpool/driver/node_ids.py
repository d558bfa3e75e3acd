"""Node ids: unique among active leases, and not given out again too soon (Driver §4.2)."""

from __future__ import annotations

from collections.abc import Iterable

NULL_NODE_ID = 0xFFFFFFFF


class NodeIds:
    """Which node ids are in use or cooling down.

    Args:
        cooldown_ns: how long a released id rests (`policies.node_id_reuse_cooldown_ms`).
        cooling: ids still resting from before, with the time until which they do.
    """

    def __init__(self, cooldown_ns: int, cooling: Iterable[tuple[int, int]] = ()) -> None:
        self._cooldown_ns = cooldown_ns
        self._in_use: set[int] = set()
        self._cooling = dict(cooling)
        self._next = max(self._cooling, default=0) + 1

    def is_available(self, node_id: int, *, now_ns: int) -> bool:
        """Whether a client that desires this id may have it."""
        if node_id == NULL_NODE_ID or node_id in self._in_use:
            return False
        return self._cooling.get(node_id, 0) <= now_ns

    def choose(self, *, now_ns: int) -> int:
        """An available id: the next one counting upwards."""
        while not self.is_available(self._next, now_ns=now_ns):
            self._next = (self._next + 1) % NULL_NODE_ID or 1
        chosen, self._next = self._next, (self._next + 1) % NULL_NODE_ID or 1
        return chosen

    def take(self, node_id: int) -> None:
        """The id belongs to a lease now."""
        self._cooling.pop(node_id, None)
        self._in_use.add(node_id)

    def release(self, node_id: int, *, now_ns: int) -> None:
        """Its lease is over: the id rests."""
        self._in_use.discard(node_id)
        self._cooling[node_id] = now_ns + self._cooldown_ns
        if len(self._cooling) > 2 * len(self._in_use) + 1024:
            self._cooling = {n: until for n, until in self._cooling.items() if until > now_ns}

    @property
    def cooldown_ns(self) -> int:
        """How long a released id rests."""
        return self._cooldown_ns
