"""Every metric of every process: one definition each, the table of `docs/metrics.md`.

Nothing is labelled by client, lease or epoch; streams are bounded by `policies.max_streams`.
An epoch is beyond what a float holds exactly: its changes are counted and its creation is dated.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric. A counter's name ends in `_total`; units are base units."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


def _counter(name: str, what: str, *labels: str) -> Metric:
    return Metric(f"tensorpool_{name}_total", "counter", labels, what)


def _gauge(name: str, what: str, *labels: str) -> Metric:
    return Metric(f"tensorpool_{name}", "gauge", labels, what)


def _seconds(name: str, what: str, *labels: str) -> Metric:
    return Metric(f"tensorpool_{name}_seconds", "histogram", labels, what)


_EVERY_PROCESS = (
    _gauge("build_info", "1, labelled by the version that runs", "version"),
    _seconds("duty_cycle", "one turn of the process's duty cycle (driver, supervisor, GC)"),
)

_LAUNCHER = (
    _gauge("host_ready", "1 while every process of the host serves"),
    _gauge("driver_serving", "1 while the driver's heart beats in the registry, and it serves"),
    _gauge("child_up", "1 while the child serves", "child"),
    _counter("child_restarts", "starts after the first, by how it had ended", "child", "reason"),
    _gauge("child_lag_seconds", "the child's longest duty cycle in the last second", "child"),
    _gauge("child_heartbeat_age_seconds", "since the child last gave a sign of life", "child"),
)

_MEDIA_DRIVER = (
    _counter("aeron_errors", "errors that the media driver logged"),
    _counter("aeron_client_timeouts", "Aeron clients that fell silent"),
    _counter("aeron_back_pressure", "senders limited by flow control"),
    _counter("aeron_unblocked_publications", "messages left half written, skipped"),
    _counter("aeron_slow_cycles", "work cycles longer than the media driver's threshold", "agent"),
    _gauge("aeron_max_cycle_seconds", "longest work cycle since its start", "agent"),
    _gauge("aeron_mapped_bytes", "memory that the media driver has mapped"),
    _gauge("aeron_clients", "Aeron clients connected"),
    _gauge("aeron_publications", "publications open"),
    _gauge("aeron_subscribers", "subscribers of a publication, one a pair"),
    _gauge("aeron_counters", "counters in use; beyond its maximum it refuses"),
    _gauge("aeron_counters_max", "counters that the media driver can have"),
)

_DRIVER = (
    _gauge("driver_connected", "1 while the media driver is there"),
    _gauge("driver_streams", "streams served"),
    _gauge("driver_prepared_bytes", "bytes of epochs made ahead of need"),
    _gauge("driver_leases", "leases that are not over", "role"),
    _counter("driver_attach_requests", "attach requests"),
    _counter("driver_attaches", "leases granted"),
    _seconds("driver_attach", "from an attach request seen to its grant sent", "role"),
    _counter("driver_rejects", "attaches refused", "code", "reason"),
    _counter("driver_detaches", "detaches that ended a lease"),
    _seconds("driver_detach", "from a detach request seen to its response sent"),
    _counter("driver_keepalives", "keepalives that matched"),
    _counter("driver_ignored_keepalives", "keepalives of no lease"),
    _seconds("driver_keepalive_delay", "from a keepalive's client timestamp to its lease extended"),
    _counter("driver_lease_ends", "leases ended", "reason"),
    _counter("driver_superseded_leases", "leases ended because their client attached again"),
    _counter("driver_epoch_bumps", "epochs put into service", "reason"),
    _seconds("driver_provision", "from an epoch wanted to its regions made, or failed"),
    _counter("driver_provisioned_bytes", "bytes of regions made"),
    _counter("driver_provision_failures", "epochs not made"),
    _counter("driver_announces", "ShmPoolAnnounce sent"),
    _counter("driver_back_pressured", "offers to be made once more"),
    _counter("driver_dropped_messages", "messages nobody heard"),
    _counter("driver_malformed_messages", "messages not readable"),
    _counter("driver_refused_shutdowns", "shutdown requests with a wrong token"),
    _counter("driver_stalls", "duty cycles late by half a second"),
    _counter("driver_media_driver_losses", "connections to the media driver lost"),
    _gauge("driver_stream_leases", "leases of the stream, pending ones included", "stream", "role"),
    _gauge("driver_stream_bytes", "bytes of the stream's current regions", "stream"),
    _counter("driver_stream_epoch_changes", "epochs put into service", "stream"),
    _gauge(
        "driver_stream_epoch_created_timestamp_seconds", "when its current epoch came", "stream"
    ),
    _gauge("shm_size_bytes", "size of the base directory's file system"),
    _gauge("shm_free_bytes", "what is free of it"),
    _gauge("shm_used_bytes", "what is taken of it, by anybody"),
)

_SUPERVISOR = (
    _gauge("supervisor_connected", "1 while the media driver is there"),
    _gauge("supervisor_consumers", "consumers known"),
    _gauge("supervisor_streams", "streams heard of"),
    _counter("supervisor_hellos", "ConsumerHello heard"),
    _counter("supervisor_configs", "ConsumerConfig sent"),
    _counter("supervisor_grants", "per-consumer streams given", "kind"),
    _counter("supervisor_declines", "per-consumer streams declined", "reason"),
    _gauge("supervisor_per_consumer_streams_in_use", "stream ids taken", "kind"),
    _gauge("supervisor_per_consumer_streams_capacity", "stream ids of the range", "kind"),
    _counter("supervisor_consumers_ended", "consumers that left or fell silent"),
    _counter("supervisor_consumers_refused", "messages of consumers beyond the capacity"),
    _counter("supervisor_id_collisions", "two living consumers with one id"),
    _counter("supervisor_announces", "ShmPoolAnnounce heard"),
    _counter("supervisor_metadata_messages", "metadata messages heard"),
    _counter("supervisor_qos_messages", "QoS messages heard"),
    _counter("supervisor_malformed_messages", "messages not readable"),
    _counter("supervisor_stalls", "duty cycles late by half a second"),
    _counter("supervisor_media_driver_losses", "connections to the media driver lost"),
    _gauge("supervisor_stream_producers", "producers heard of lately", "stream"),
    _gauge("supervisor_stream_consumers", "consumers known", "stream"),
    _counter("supervisor_stream_frames", "frames published, by the producer's QoS", "stream"),
    _counter("supervisor_stream_drops", "frames lost, by the consumers' QoS", "stream", "kind"),
    _gauge(
        "supervisor_stream_lag_frames", "how far the slowest consumer is behind, by QoS", "stream"
    ),
)

_GC = (
    _counter("gc_passes", "passes over the namespace"),
    _seconds("gc_pass", "one pass"),
    _gauge("gc_last_pass_timestamp_seconds", "when the last pass ended, 0 before the first"),
    _gauge("gc_unserved_requests", "passes that the driver asked for, short of space, to be run"),
    _counter("gc_deleted", "directories deleted", "rule"),
    _counter("gc_freed_bytes", "bytes freed"),
    _gauge("gc_kept", "directories kept by the last pass", "rule"),
    _counter("gc_errors", "deletions that failed"),
    _gauge("gc_directories", "epoch directories in the namespace"),
    _gauge("gc_namespace_bytes", "memory that the namespace's files take"),
)

BY_PROCESS: dict[str, tuple[Metric, ...]] = {
    "every process": _EVERY_PROCESS,
    "launcher": _LAUNCHER,
    "media_driver": _MEDIA_DRIVER,
    "driver": _DRIVER,
    "supervisor": _SUPERVISOR,
    "gc": _GC,
}
"""By the process that serves them."""

METRICS = tuple(metric for metrics in BY_PROCESS.values() for metric in metrics)


def table() -> str:
    """`docs/metrics.md`'s table: `python -m tensorpool.metrics.table` prints it."""
    lines = []
    for process, metrics in BY_PROCESS.items():
        lines += [f"### {process}", "", "| name | type | labels | meaning |"]
        lines.append("| --- | --- | --- | --- |")
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
