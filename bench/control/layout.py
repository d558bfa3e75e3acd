"""The host that the control plane is measured on: many small streams, and one of each pool size."""

from __future__ import annotations

KEEPALIVE_S = 1.0
GRACE_INTERVALS = 3
LEASE_LIFE_S = KEEPALIVE_S * GRACE_INTERVALS
"""After its last keepalive."""

CROWD_STREAMS = tuple(range(11000, 11064))
"""Where the crowd's leases are, evenly: a stream's announce and epoch concern its own only."""
PROBE_STREAM = 10001
FIRST_POOL_STREAM = 12000
_SPARE_LEASES = 2000
"""Room for what is attached beside the crowd."""

_CONFIG = """\
[driver]
aeron_dir = "{root}/aeron"
announce_stream_id = 1001
[shm]
base_dir = "{root}/shm"
[policies]
prepare_ahead_max_bytes = {ahead_bytes}
lease_keepalive_interval_ms = {keepalive_ms}
lease_expiry_grace_intervals = {grace}
max_leases = {max_leases}
max_streams = {max_streams}
# Epochs of the largest pools follow each other faster than any real ones.
epoch_gc_min_age_ns = 100000000
[profiles.small]
header_nslots = 16
payload_pools = [{{ pool_id = 1, stride_bytes = 4096 }}]
[streams.probe]
stream_id = {probe}
profile = "small"
[supervisor]
"""
_SLOTS = 16
DEFAULT_AHEAD_BYTES = 1 << 20


def host_config(root: str, most_leases: int, pool_bytes: list[int], ahead_bytes: int) -> str:
    """The configuration of a host below `root`; each pool size has a stream of its own.

    Epochs of up to `ahead_bytes` are made ahead of need.
    """
    parts = [
        _CONFIG.format(
            root=root,
            ahead_bytes=ahead_bytes,
            keepalive_ms=int(KEEPALIVE_S * 1e3),
            grace=GRACE_INTERVALS,
            max_leases=most_leases + _SPARE_LEASES,
            max_streams=len(CROWD_STREAMS) + len(pool_bytes) + 1,
            probe=PROBE_STREAM,
        )
    ]
    parts += [
        f'[streams.crowd{number}]\nstream_id = {stream_id}\nprofile = "small"\n'
        for number, stream_id in enumerate(CROWD_STREAMS)
    ]
    parts += [
        f"[profiles.pool{number}]\nheader_nslots = {_SLOTS}\n"
        f"payload_pools = [{{ pool_id = 1, stride_bytes = {nbytes // _SLOTS} }}]\n"
        f"[streams.pool{number}]\nstream_id = {FIRST_POOL_STREAM + number}\n"
        f'profile = "pool{number}"\n'
        for number, nbytes in enumerate(pool_bytes)
    ]
    return "".join(parts)
