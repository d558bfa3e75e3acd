"""The supervisor's counters as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from tensorpool.metrics import Sample
from tensorpool.supervisor.agent import SupervisorAgent


def samples(agent: SupervisorAgent) -> Iterator[Sample]:
    """What a scrape of the supervisor shows now."""
    service, stats = agent.service, agent.service.stats
    yield Sample("tensorpool_supervisor_consumers", len(service.consumers))
    yield Sample("tensorpool_supervisor_hellos_total", stats.hellos)
    yield Sample("tensorpool_supervisor_configs_total", stats.configs_sent)
    yield Sample("tensorpool_supervisor_declines_total", stats.declines)
    yield Sample("tensorpool_supervisor_qos_messages_total", stats.qos_messages)
    yield Sample("tensorpool_supervisor_malformed_messages_total", stats.malformed_messages)
