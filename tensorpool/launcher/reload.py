"""What SIGHUP may change: streams and profiles added, the log level, supervisor policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorpool.settings import HostSettings

_LOG_LEVEL = "logging.level"
_ENTRIES = ("streams", "profiles")
_SUPERVISOR = "supervisor"
_SUPERVISOR_POLICIES = frozenset(
    {
        "consumer_capacity",
        "consumer_stale_ms",
        "per_consumer_enabled",
        "per_consumer_descriptor_channel",
        "per_consumer_descriptor_base",
        "per_consumer_descriptor_range",
        "per_consumer_control_channel",
        "per_consumer_control_base",
        "per_consumer_control_range",
        "force_no_shm",
        "force_mode",
        "payload_fallback_uri",
    }
)


@dataclass(frozen=True, slots=True)
class HostConfiguration:
    """A validated configuration, as the launcher needs it.

    Attributes:
        settings: what the processes run on.
        tables: the same as the user writes it, to name what changed.
        path: its file; None: the built-in default.
    """

    settings: HostSettings
    tables: Mapping[str, object]
    path: str | None


def changed_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Dotted names of the keys that differ, those on one side only among them."""
    before, after = dict(_flat(old, "")), dict(_flat(new, ""))
    missing = object()
    return [
        key for key in {**before, **after} if before.get(key, missing) != after.get(key, missing)
    ]


def refused_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Those of `changed_keys` that need a new start of the host."""
    return [key for key in changed_keys(old, new) if not _may_change(key, old, new)]


def _may_change(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    if key == _LOG_LEVEL:
        return True
    table, _, rest = key.partition(".")
    if table in _ENTRIES:
        # A name of the user's choice may itself hold dots.
        return not any(rest.startswith(f"{name}.") for name in _table(old, table))
    if table == _SUPERVISOR:
        return rest in _SUPERVISOR_POLICIES and bool(_table(old, table) and _table(new, table))
    return False


def _table(tables: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = tables.get(name)
    return table if isinstance(table, Mapping) else {}


def _flat(table: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
