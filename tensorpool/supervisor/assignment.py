"""Who has which per-consumer stream, and the config that says so."""

from __future__ import annotations

from dataclasses import replace

from tensorpool.settings import SupervisorSettings
from tensorpool.supervisor import policy
from tensorpool.supervisor.consumers import Consumer, Grant
from tensorpool.supervisor.policy import Decline, Kind
from tensorpool.supervisor.stats import SupervisorStats
from tensorpool.supervisor.stream_ids import StreamIds
from tensorpool.wire.control import ConsumerConfig, ConsumerHello

type Assignment = tuple[str, int]
"""Channel and stream id of a per-consumer stream; `_NOT_ASSIGNED` without one."""
_NOT_ASSIGNED: Assignment = ("", 0)


class Assigner:
    """Joins the policy with the ids that are left.

    Attributes:
        stream_ids: the allocators of the kinds that have a range.
    """

    def __init__(self, settings: SupervisorSettings, stats: SupervisorStats) -> None:
        self.stream_ids: dict[Kind, StreamIds] = {
            kind: StreamIds(ids)
            for kind in Kind
            if (ids := policy.offered(settings, kind).ids) is not None
        }
        self._settings = settings
        self._stats = stats

    @property
    def ids_in_use(self) -> dict[str, int]:
        """How many ids are assigned, by Kind value."""
        return {kind.value: ids.in_use for kind, ids in self.stream_ids.items()}

    @property
    def capacities(self) -> dict[str, int]:
        """How many ids there are, by Kind value."""
        return {kind.value: len(ids.ids) for kind, ids in self.stream_ids.items()}

    def reload(self, settings: SupervisorSettings) -> None:
        """Take over new policies.

        Channels and ranges stay: what has been assigned out of them is in use.
        """
        self._settings = replace(
            settings,
            per_consumer_descriptor=self._settings.per_consumer_descriptor,
            per_consumer_control=self._settings.per_consumer_control,
        )

    def judge(self, consumer: Consumer, hello: ConsumerHello) -> ConsumerConfig:
        """What holds for a tracked consumer with this hello; takes and releases ids for it."""
        return self._config(
            hello,
            self._assign(consumer, hello, Kind.DESCRIPTOR),
            self._assign(consumer, hello, Kind.CONTROL),
        )

    def refuse(self, hello: ConsumerHello) -> ConsumerConfig:
        """What holds for a consumer that is not tracked, and so cannot hold streams."""
        for kind in Kind:
            request = policy.requested(hello, kind, self._settings)
            if request is not None:
                self._decline(request if isinstance(request, Decline) else Decline.CAPACITY)
        return self._config(hello, _NOT_ASSIGNED, _NOT_ASSIGNED)

    def release_all(self, consumer: Consumer) -> None:
        """The consumer is gone: its ids are free."""
        for kind in Kind:
            self._release(consumer, kind)

    def _assign(self, consumer: Consumer, hello: ConsumerHello, kind: Kind) -> Assignment:
        """The consumer's stream of this kind. What it has it keeps while it asks for one."""
        request = policy.requested(hello, kind, self._settings)
        if not isinstance(request, policy.Request):
            self._release(consumer, kind)
            if request is not None:
                self._decline(request)
            return _NOT_ASSIGNED
        ids = self.stream_ids[kind]
        grant = consumer.grants.get(kind)
        if grant is not None and grant.preferred_id != request.preferred_id:
            grant.preferred_id = request.preferred_id
            if ids.is_free(request.preferred_id):
                self._release(consumer, kind)
                grant = None
        if grant is None:
            stream_id = ids.take(request.preferred_id, consumer.consumer_id)
            if stream_id is None:
                self._decline(Decline.EXHAUSTED)
                return _NOT_ASSIGNED
            grant = consumer.grants[kind] = Grant(stream_id, request.preferred_id)
            self._stats.grants[kind.value] += 1
        return policy.offered(self._settings, kind).channel, grant.stream_id

    def _release(self, consumer: Consumer, kind: Kind) -> None:
        grant = consumer.grants.pop(kind, None)
        if grant is not None:
            self.stream_ids[kind].release(grant.stream_id)

    def _decline(self, reason: Decline) -> None:
        self._stats.declines[reason.value] += 1

    def _config(
        self, hello: ConsumerHello, descriptor: Assignment, control: Assignment
    ) -> ConsumerConfig:
        return ConsumerConfig(
            hello.stream_id,
            hello.consumer_id,
            use_shm=int(policy.uses_shm(hello, self._settings)),
            mode=policy.mode_of(hello, self._settings),
            descriptor_stream_id=descriptor[1],
            control_stream_id=control[1],
            payload_fallback_uri=policy.fallback_uri(hello, self._settings),
            descriptor_channel=descriptor[0],
            control_channel=control[0],
        )
