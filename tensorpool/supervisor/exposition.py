"""The supervisor's counters as metrics.

Read on the scrape's thread: whatever the duty cycle may change meanwhile is copied first.
"""

from __future__ import annotations

from collections.abc import Iterator

from tensorpool.clock import monotonic_ns
from tensorpool.metrics import Sample
from tensorpool.supervisor.agent import SupervisorAgent
from tensorpool.supervisor.policy import Decline, Kind
from tensorpool.supervisor.service import SupervisorService
from tensorpool.supervisor.stats import SupervisorStats
from tensorpool.supervisor.streams import StreamView


def samples(agent: SupervisorAgent) -> Iterator[Sample]:
    """What a scrape of the supervisor shows now."""
    service = agent.service
    yield Sample("tensorpool_supervisor_connected", agent.is_connected)
    yield Sample("tensorpool_supervisor_consumers", len(service.consumers))
    yield Sample("tensorpool_supervisor_streams", len(service.streams))
    in_use, capacities = service.assigner.ids_in_use, service.assigner.capacities
    yield Sample("tensorpool_supervisor_per_consumer_streams_in_use", in_use)
    yield Sample("tensorpool_supervisor_per_consumer_streams_capacity", capacities)
    yield from _totals(service.stats)
    yield from _by_stream(service)


def _totals(stats: SupervisorStats) -> Iterator[Sample]:
    plain: dict[str, float] = {
        "hellos": stats.hellos,
        "configs": stats.configs_sent,
        "consumers_ended": stats.consumers_ended,
        "consumers_refused": stats.consumers_refused,
        "id_collisions": stats.id_collisions,
        "announces": stats.announces,
        "metadata_messages": stats.metadata_messages,
        "qos_messages": stats.qos_messages,
        "malformed_messages": stats.malformed_messages,
        "stalls": stats.stalls,
        "media_driver_losses": stats.media_driver_losses,
    }
    for name, value in plain.items():
        yield Sample(f"tensorpool_supervisor_{name}_total", value)
    # Every reason from the start: a counter that appears with its first event has no increase.
    grants = {kind.value: stats.grants[kind.value] for kind in Kind}
    declines = {reason.value: stats.declines[reason.value] for reason in Decline}
    yield Sample("tensorpool_supervisor_grants_total", grants)
    yield Sample("tensorpool_supervisor_declines_total", declines)


def _by_stream(service: SupervisorService) -> Iterator[Sample]:
    views = {view.stream_id: view for view in service.streams.snapshot()}
    frames: dict[str, float] = {}
    drops: dict[tuple[str, ...], float] = {}
    producers: dict[str, float] = {}
    consumers: dict[str, float] = {}
    now_ns, stale_ns = monotonic_ns(), service.streams.stale_ns
    for view in views.values():
        name = str(view.stream_id)
        frames[name] = view.frames
        drops[name, "gap"], drops[name, "late"] = view.drops_gap, view.drops_late
        seen = [producer.last_seen_ns for producer in list(view.producers.values())]
        producers[name] = sum(at_ns + stale_ns > now_ns for at_ns in seen)
        consumers[name] = len(view.consumers)
    yield Sample("tensorpool_supervisor_stream_frames_total", frames)
    yield Sample("tensorpool_supervisor_stream_drops_total", drops)
    yield Sample("tensorpool_supervisor_stream_producers", producers)
    yield Sample("tensorpool_supervisor_stream_consumers", consumers)
    yield Sample("tensorpool_supervisor_stream_lag_frames", _lags(service, views))


def _lags(service: SupervisorService, views: dict[int, StreamView]) -> dict[str, float]:
    """By stream, how far the slowest consumer's report is behind the producer's, in one epoch."""
    lags = {str(stream_id): 0.0 for stream_id in views}
    for consumer in service.consumers.snapshot():
        view = views.get(consumer.stream_id)
        if view is None:
            continue
        at = consumer.progress
        published = [
            producer.progress.seq
            for producer in list(view.producers.values())
            if producer.progress.epoch == at.epoch
        ]
        name = str(consumer.stream_id)
        lags[name] = max([lags[name], *(seq - at.seq for seq in published)])
    return lags
