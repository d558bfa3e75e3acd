"""Producer's and consumer's places in their stream, in pure Python: twins of `native/`'s types.

In C they also know the shortest way: a frame published, or the next one taken, in one call, while
nothing has changed since they were armed. Here that way is always closed, and everything goes the
way that is open after any change: `Producer` and `Consumer` have it in Python.
"""

from __future__ import annotations

import threading
from threading import get_ident
from typing import Any, Literal

import numpy as np

from tensorpool.client.slots import FrameState
from tensorpool.client.tensors import AnyArray


class UserGate:
    """Lets one user in at a time, and never waits.

    Attributes:
        thread: who came in last.
        uses: how often anybody came in.
    """

    __slots__ = ("_lock", "thread", "uses")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.thread = 0
        self.uses = 0

    @property
    def is_in_use(self) -> bool:
        """Whether somebody is inside."""
        return self._lock.locked()

    def enter(self) -> bool:
        """Begin a use; False if somebody is in one."""
        if not self._lock.acquire(blocking=False):
            return False
        self.thread = get_ident()
        self.uses += 1
        return True

    def leave(self) -> None:
        """End the use."""
        self._lock.release()


class ConsumerState[F: FrameState]:
    """A consumer's place in its stream; `Consumer` says what its attributes mean."""

    received = 0
    drops_gap = 0
    drops_late = 0
    drops_invalid = 0
    _last_seq = 0
    _last_epoch = 0

    def _arm(self, *parts: Any) -> None:
        """From now on the next frame is had from these, until any of them changes.

        Args:
            parts: the lease and its version, the keeper and its connection, the gate, the
                mappings, the `SlotReader`, the `DescriptorSink` and the subscription.
        """

    def _disarm(self) -> None:
        """Let go of all that."""

    def _take_at_once(self) -> F | Literal[False] | None:
        """The next frame; None if there is none; False if Python has to look."""
        return False

    def _take_inside(self) -> F | Literal[False] | None:
        """The same, for who is inside the gate."""
        return False


class ClaimState:
    """What a claimed frame is made of; `ClaimedFrame` says what its attributes mean."""

    __slots__ = (
        "_meta_version",
        "_plan",
        "_producer",
        "_report",
        "_timestamp_ns",
        "_trace_id",
        "array",
        "is_abandoned",
        "is_open",
        "seq",
    )
    _meta_version: int
    _timestamp_ns: int
    _trace_id: int
    array: AnyArray
    is_abandoned: bool
    is_open: bool
    seq: int


class ProducerState:
    """A producer's place in its stream; `Producer` says what its attributes mean."""

    published = 0
    _seq = 0
    _described = 0

    def _arm(self, *parts: Any) -> None:
        """From now on frames are published with these, until any of them changes.

        Args:
            parts: the lease and its version, the keeper and its connection, the gate, the
                mappings, the `SlotWriter`, the publication, the audience, and the open claims.
        """

    def _disarm(self) -> None:
        """Let go of all that."""

    def _publish_at_once(
        self,
        array: Any,  # noqa: ARG002 - the twin's arguments
        timestamp_ns: int | None,  # noqa: ARG002
        meta_version: int,  # noqa: ARG002
        trace_id: int,  # noqa: ARG002
    ) -> int | None:
        """The frame's seq; None if nothing was done and Python has to look."""
        return None

    def _claim_at_once(  # noqa: PLR0913 - one argument a field
        self,
        frame_type: type[Any],  # noqa: ARG002
        plan: tuple[Any, ...],  # noqa: ARG002
        dims: tuple[int, ...],  # noqa: ARG002
        dtype: np.dtype[np.generic],  # noqa: ARG002
        is_column: bool,  # noqa: ARG002, FBT001
        timestamp_ns: int | None,  # noqa: ARG002
        meta_version: int,  # noqa: ARG002
        trace_id: int,  # noqa: ARG002
    ) -> Any:
        """The claim; None if nothing was done and Python has to look."""
        return None

    def _finish_at_once(self, claim: Any) -> int | None:  # noqa: ARG002
        """Its seq; None if nothing was done and Python has to look."""
        return None
