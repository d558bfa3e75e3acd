"""Prometheus metrics: every name in one place; one registry and one port a process.

A process counts in plain integers on its hot path and hands a function here that reads them
when somebody scrapes. Nothing is labelled by client, lease or epoch: cardinality is bounded.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorpool.clock import NS_PER_S
from tensorpool.errors import HostError
from tensorpool.metrics.histogram import Histogram
from tensorpool.metrics.server import Answer, Route, listen, start
from tensorpool.metrics.table import METRICS, Metric
from tensorpool.settings import MetricsSettings
from tensorpool.version import __version__

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client import Metric as Family

__all__ = ["METRICS", "Answer", "Histogram", "Metric", "Route", "Sample", "serve"]

type Value = float | Histogram


class Sample(NamedTuple):
    """A metric's value now; if it has labels, by the label's value or by the tuple of theirs."""

    name: str
    value: Value | Mapping[Any, Value]


type Collect = Callable[[], Iterable[Sample]]

_BY_NAME = {metric.name: metric for metric in METRICS}


def serve(
    settings: MetricsSettings, role: str, collect: Collect, routes: Mapping[str, Route] = {}
) -> str | None:
    """Serve `/metrics` of this process, and `routes`, on a thread of its own.

    Returns:
        The URL of the metrics as this host reaches them; None if metrics are disabled.

    Raises:
        HostError: the port is taken or the address is not ours.
    """
    if not settings.enabled:
        return None
    port = dict(settings.ports)[role]
    try:
        listener = listen(settings.bind_address, port)
    except OSError as error:
        raise HostError(
            f"metrics of {role}: cannot listen on {settings.bind_address} port {port}: "
            f"{error.strerror}; free the port or set metrics.ports.{role} to another (0: any)"
        ) from error
    start(listener, {"/metrics": _metrics_route(collect), **routes})
    return f"http://{_reachable(settings.bind_address)}:{listener.getsockname()[1]}/metrics"


def _metrics_route(collect: Collect) -> Route:
    # 60 ms of import that a host without metrics does not pay.
    from prometheus_client import (  # noqa: PLC0415
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        ProcessCollector,
        generate_latest,
    )

    registry: CollectorRegistry = CollectorRegistry()
    registry.register(_Collector(collect))
    ProcessCollector(registry=registry)
    return lambda: Answer(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _reachable(address: str) -> str:
    """The address by which this host reaches what listens on `address`, as a URL has it."""
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")  # noqa: PLR2004
    return str(ip) if ip.version == 4 else f"[{ip}]"  # noqa: PLR2004


class _Collector:
    """Turns samples into what prometheus_client exposes."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Family]:
        """Called at each scrape."""
        for sample in (*self._collect(), Sample("tensorpool_build_info", {__version__: 1})):
            yield _family(_BY_NAME[sample.name], sample)

    def describe(self) -> Iterable[Family]:
        """Nothing to ask when it is registered: that would be a scrape before the first cycle."""
        return ()


def _family(metric: Metric, sample: Sample) -> Family:
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    values: Mapping[Any, Value]
    values = sample.value if isinstance(sample.value, Mapping) else {(): sample.value}
    rows = [((key,) if isinstance(key, str) else key, value) for key, value in values.items()]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in rows:
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, value.buckets(), value.sum_ns / NS_PER_S)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in rows:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family
