"""Prometheus metrics: every name in one place; one registry and one port a process.

A process counts in plain integers on its hot path and hands a function here that reads them
when somebody scrapes. Nothing is labelled by client, lease or epoch: cardinality is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from tensorpool.errors import HostError
from tensorpool.settings import MetricsSettings
from tensorpool.version import __version__

if TYPE_CHECKING:
    from prometheus_client import Metric as Family


class Metric(NamedTuple):
    """One metric. A counter's name ends in `_total`; units are base units."""

    name: str
    kind: Literal["counter", "gauge"]
    label: str | None
    help: str


class Sample(NamedTuple):
    """A metric's value now; by label value if it has a label."""

    name: str
    value: float | Mapping[str, float]


type Collect = Callable[[], Iterable[Sample]]

METRICS = (
    Metric("tensorpool_build_info", "gauge", "version", "1, labelled by the version that runs"),
    Metric("tensorpool_host_ready", "gauge", None, "1 while every process of the host serves"),
    Metric("tensorpool_child_up", "gauge", "child", "1 while the child serves"),
    Metric("tensorpool_child_restarts_total", "counter", "child", "starts after the first"),
    Metric("tensorpool_driver_connected", "gauge", None, "1 while the media driver is there"),
    Metric("tensorpool_driver_leases", "gauge", None, "leases that are not over"),
    Metric("tensorpool_driver_streams", "gauge", None, "streams served"),
    Metric("tensorpool_driver_attach_requests_total", "counter", None, "attach requests"),
    Metric("tensorpool_driver_attaches_total", "counter", None, "leases granted"),
    Metric("tensorpool_driver_detaches_total", "counter", None, "detaches that ended a lease"),
    Metric("tensorpool_driver_rejects_total", "counter", "code", "attaches refused"),
    Metric("tensorpool_driver_keepalives_total", "counter", None, "keepalives that matched"),
    Metric("tensorpool_driver_ignored_keepalives_total", "counter", None, "keepalives of no lease"),
    Metric("tensorpool_driver_lease_ends_total", "counter", "reason", "leases ended"),
    Metric("tensorpool_driver_superseded_leases_total", "counter", None, "leases of a successor"),
    Metric("tensorpool_driver_epoch_bumps_total", "counter", "reason", "epochs put into service"),
    Metric("tensorpool_driver_provisioned_bytes_total", "counter", None, "bytes of regions made"),
    Metric("tensorpool_driver_provision_failures_total", "counter", None, "epochs not made"),
    Metric("tensorpool_driver_announces_total", "counter", None, "ShmPoolAnnounce sent"),
    Metric(
        "tensorpool_driver_back_pressured_total", "counter", None, "offers to be made once more"
    ),
    Metric("tensorpool_driver_dropped_messages_total", "counter", None, "messages nobody heard"),
    Metric("tensorpool_driver_malformed_messages_total", "counter", None, "messages not readable"),
    Metric("tensorpool_driver_refused_shutdowns_total", "counter", None, "tokens that were wrong"),
    Metric("tensorpool_driver_stalls_total", "counter", None, "duty cycles late by half a second"),
    Metric("tensorpool_driver_media_driver_losses_total", "counter", None, "connections lost"),
    Metric("tensorpool_shm_size_bytes", "gauge", None, "size of the base directory's file system"),
    Metric("tensorpool_shm_free_bytes", "gauge", None, "what is free of it"),
    Metric("tensorpool_supervisor_consumers", "gauge", None, "consumers known"),
    Metric("tensorpool_supervisor_hellos_total", "counter", None, "ConsumerHello heard"),
    Metric("tensorpool_supervisor_configs_total", "counter", None, "ConsumerConfig sent"),
    Metric("tensorpool_supervisor_declines_total", "counter", "reason", "per-consumer declined"),
    Metric("tensorpool_supervisor_qos_messages_total", "counter", None, "QoS messages heard"),
    Metric("tensorpool_supervisor_malformed_messages_total", "counter", None, "not readable"),
    Metric("tensorpool_gc_passes_total", "counter", None, "passes over the namespace"),
    Metric("tensorpool_gc_deleted_total", "counter", "rule", "directories deleted"),
    Metric("tensorpool_gc_freed_bytes_total", "counter", None, "bytes freed"),
    Metric("tensorpool_gc_kept", "gauge", "rule", "directories kept by the last pass"),
    Metric("tensorpool_gc_errors_total", "counter", None, "deletions that failed"),
)
_BY_NAME = {metric.name: metric for metric in METRICS}


def serve(settings: MetricsSettings, role: str, collect: Collect) -> str | None:
    """Serve `/metrics` of this process on a thread of its own; its URL, None if disabled.

    Raises:
        HostError: the port is taken or the address is not ours.
    """
    if not settings.enabled:
        return None
    # 60 ms of import that a host without metrics does not pay.
    from prometheus_client import (  # noqa: PLC0415
        CollectorRegistry,
        ProcessCollector,
        start_http_server,
    )

    registry = CollectorRegistry()
    registry.register(_Collector(collect))
    ProcessCollector(registry=registry)
    port = dict(settings.ports)[role]
    try:
        server, _ = start_http_server(port, settings.bind_address, registry)
    except OSError as error:
        raise HostError(
            f"metrics of {role}: cannot listen on {settings.bind_address} port {port}: "
            f"{error.strerror}; free the port or set metrics.ports.{role} to another (0: any)"
        ) from error
    return f"http://{settings.bind_address}:{server.server_port}/metrics"


class _Collector:
    """Turns samples into what prometheus_client exposes."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Family]:
        """Called at each scrape."""
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        for sample in (*self._collect(), Sample("tensorpool_build_info", {__version__: 1})):
            metric = _BY_NAME[sample.name]
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=[metric.label] if metric.label else [])
            if isinstance(sample.value, Mapping):
                for label, value in dict(sample.value).items():
                    family.add_metric([label], value)
            else:
                family.add_metric([], sample.value)
            yield family
