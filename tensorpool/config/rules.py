"""Rules that more than one key takes part in."""

import difflib
import os
from collections.abc import Iterator

from tensorpool.config.faults import Path
from tensorpool.config.finding import Finding
from tensorpool.config.ids import check_ids
from tensorpool.config.models import ProfileTable
from tensorpool.config.operations import HostConfig
from tensorpool.config.space import check_space

_LONGEST_LEASE_MS = 100 * 365 * 24 * 3600 * 1000
"""A century, which leaves a deadline of uint64 nanoseconds room for the clock."""


def check(config: HostConfig, *, fits_host: bool = True) -> Iterator[Finding]:
    """Every rule between keys that `config`, with inherited defaults in place, breaks.

    Without `fits_host` it is not judged by the space of this host.
    """
    yield from _profiles(config)
    yield from _streams(config)
    yield from check_ids(config)
    yield from _lease_life(config)
    yield from _base_dirs(config)
    yield from check_space(config, fits_host=fits_host)
    yield from _media_driver(config)
    yield from _launcher(config)
    yield from _metrics(config)


def _profiles(config: HostConfig) -> Iterator[Finding]:
    if not config.profiles:
        yield Finding(
            ("profiles",),
            None,
            "at least one profile (Driver §17)",
            "add [profiles.default] with payload_pools = [{ pool_id = 1, stride_bytes = 1048576 }]",
        )
    for name, profile in config.profiles.items():
        array: Path = ("profiles", name, "payload_pools")
        first_index: dict[int, int] = {}
        for index, pool in enumerate(profile.payload_pools):
            first = first_index.setdefault(pool.pool_id, index)
            if first != index:
                yield Finding(
                    (*array, index, "pool_id"),
                    pool.pool_id,
                    "each pool_id once in a profile (Driver §17)",
                    f"give it another, such as {_free_id(profile)}",
                    ((*array, first, "pool_id"),),
                )
    default = config.policies.default_profile
    if default and default not in config.profiles:
        yield _unknown_profile(config, ("policies", "default_profile"), default)


def _free_id(profile: ProfileTable) -> int:
    taken = {pool.pool_id for pool in profile.payload_pools}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _unknown_profile(config: HostConfig, path: Path, name: str) -> Finding:
    close = difflib.get_close_matches(name, config.profiles, n=1)
    if close:
        remedy = f'did you mean "{close[0]}"?'
    elif config.profiles:
        remedy = f"name one of {', '.join(config.profiles)}, or add [profiles.{name}]"
    else:
        remedy = f"add [profiles.{name}]"
    return Finding(path, name, "the name of a profile", remedy, (("profiles", name),))


def _streams(config: HostConfig) -> Iterator[Finding]:
    policies = config.policies
    if not config.streams and not policies.allow_dynamic_streams:
        yield Finding(
            ("streams",),
            None,
            "at least one stream while policies.allow_dynamic_streams is false (Driver §17)",
            "add [streams.cam1] with stream_id and profile, or allow dynamic streams",
            (("policies", "allow_dynamic_streams"),),
        )
    if policies.allow_dynamic_streams and config.driver.stream_id_range is None:
        yield Finding(
            ("driver", "stream_id_range"),
            None,
            "a range, for policies.allow_dynamic_streams is true (Driver §11)",
            'add stream_id_range = "20000-29999" to [driver]',
            (("policies", "allow_dynamic_streams"),),
        )
    if len(config.streams) > policies.max_streams:
        yield Finding(
            ("policies", "max_streams"),
            policies.max_streams,
            f"room for each of the {len(config.streams)} streams of the file",
            f"write {len(config.streams)} or more",
            (("streams",),),
        )
    owners: dict[int, str] = {}
    for name, stream in config.streams.items():
        if stream.profile not in config.profiles:
            yield _unknown_profile(config, ("streams", name, "profile"), stream.profile)
        first = owners.setdefault(stream.stream_id, name)
        if first != name:
            yield Finding(
                ("streams", name, "stream_id"),
                stream.stream_id,
                f"each stream id once; streams.{first} has it",
                "give one of the two another id",
                (("streams", first, "stream_id"),),
            )


def _lease_life(config: HostConfig) -> Iterator[Finding]:
    policies = config.policies
    interval, grace = policies.lease_keepalive_interval_ms, policies.lease_expiry_grace_intervals
    if interval * grace > _LONGEST_LEASE_MS:
        yield Finding(
            ("policies", "lease_expiry_grace_intervals"),
            grace,
            f"a lease's life, this times lease_keepalive_interval_ms = {interval}, of at most "
            f"{_LONGEST_LEASE_MS} ms: deadlines are uint64 nanoseconds",
            f"write {_LONGEST_LEASE_MS // interval} or less, or lower the interval",
            (("policies", "lease_keepalive_interval_ms"),),
        )


def _base_dirs(config: HostConfig) -> Iterator[Finding]:
    base = config.shm.base_dir
    allowed = config.shm.allowed_base_dirs
    for candidate, path in ((base, os.path.normpath), (os.path.realpath(base), os.path.realpath)):
        if any(_is_below(candidate, path(directory)) for directory in allowed):
            return
    yield Finding(
        ("shm", "allowed_base_dirs"),
        allowed,
        f"one of them is or contains shm.base_dir, {base}: clients refuse regions elsewhere",
        f'add "{base}"',
        (("shm", "base_dir"),),
    )


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _media_driver(config: HostConfig) -> Iterator[Finding]:
    table = config.media_driver
    # Aeron's own conditions; broken, its driver would not start.
    greater = (
        ("publication_unblock_timeout_ms", "client_liveness_timeout_ms"),
        ("client_liveness_timeout_ms", "timer_interval_ms"),
        ("untethered_window_limit_timeout_ms", "timer_interval_ms"),
        ("untethered_linger_timeout_ms", "timer_interval_ms"),
        ("untethered_resting_timeout_ms", "timer_interval_ms"),
    )
    for longer, shorter in greater:
        value, bound = getattr(table, longer), getattr(table, shorter)
        if value <= bound:
            yield Finding(
                ("media_driver", longer),
                value,
                f"more than media_driver.{shorter}, {bound} (Aeron refuses to start)",
                f"write {bound + 1} or more, or lower {shorter}",
                (("media_driver", shorter),),
            )


def _launcher(config: HostConfig) -> Iterator[Finding]:
    table = config.launcher
    if table.restart_backoff_max_ms < table.restart_backoff_initial_ms:
        yield Finding(
            ("launcher", "restart_backoff_max_ms"),
            table.restart_backoff_max_ms,
            f"at least launcher.restart_backoff_initial_ms, {table.restart_backoff_initial_ms}",
            f"write {table.restart_backoff_initial_ms} or more",
            (("launcher", "restart_backoff_initial_ms"),),
        )


def _metrics(config: HostConfig) -> Iterator[Finding]:
    path = config.metrics.discovery_file
    if path and not path.endswith(".json"):
        yield Finding(
            ("metrics", "discovery_file"),
            path,
            "a path that ends in .json: by that Prometheus knows the format",
            f'write "{path}.json"',
        )
    owners: dict[int, str] = {}
    for process in type(config.metrics.ports).model_fields:
        port: int = getattr(config.metrics.ports, process)
        first = owners.setdefault(port, process)
        if port != 0 and first != process:
            yield Finding(
                ("metrics", "ports", process),
                port,
                f"a port of its own, or 0 for any; metrics.ports.{first} has it",
                "give one of the two another port",
                (("metrics", "ports", first),),
            )
