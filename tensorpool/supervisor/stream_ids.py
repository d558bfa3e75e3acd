"""Per-consumer stream ids out of a configured range, none given to two consumers (Driver §11)."""

from __future__ import annotations

from tensorpool.settings import IdRange


class StreamIds:
    """Which ids of a range are taken.

    The place where the search for a free id starts depends on the consumer alone, so a
    restarted supervisor mostly finds for each consumer the id that it had.
    """

    def __init__(self, ids: IdRange) -> None:
        self.ids = ids
        self._taken: set[int] = set()

    @property
    def in_use(self) -> int:
        """How many ids are taken."""
        return len(self._taken)

    def is_free(self, stream_id: int) -> bool:
        """Whether `stream_id` lies in the range and nobody has it."""
        return stream_id in self.ids and stream_id not in self._taken

    def take(self, preferred: int, consumer_id: int) -> int | None:
        """`preferred` if it is free, else another free id; None if all are taken.

        Takes at most one step more than there are ids in use.
        """
        chosen = preferred if self.is_free(preferred) else self._find(consumer_id)
        if chosen is not None:
            self._taken.add(chosen)
        return chosen

    def release(self, stream_id: int) -> None:
        """Give an id back.

        Raises:
            KeyError: it was not taken.
        """
        self._taken.remove(stream_id)

    def _find(self, consumer_id: int) -> int | None:
        size = len(self.ids)
        if len(self._taken) == size:
            return None
        place = consumer_id % size
        while (candidate := self.ids.first + place) in self._taken:
            place = (place + 1) % size
        return candidate
