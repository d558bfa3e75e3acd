"""The effective configuration, as text and as data, with each value's origin."""

from collections.abc import Iterator
from typing import NamedTuple

import tomli

from tensorpool.config.faults import dotted
from tensorpool.config.load import LoadedConfig
from tensorpool.config.operations import HostConfig
from tensorpool.config.space import epoch_bytes
from tensorpool.config.tree import Key, keys, toml_text

_MIB = 1 << 20
_WIDE_CHARS = 60
"""A value this long does not push the origins of all others to the right."""


class Effective(NamedTuple):
    """A key, its value as TOML text (secrets masked), and where it came from."""

    key: str
    text: str
    source: str


def effective(loaded: LoadedConfig) -> Iterator[Effective]:
    """Every key with its effective value, in the order of the models."""
    names: dict[str, object] = {
        "profiles": {name: {} for name in loaded.config.profiles},
        "streams": {name: {} for name in loaded.config.streams},
    }
    for key in keys(HostConfig, names):
        name = dotted(key.path)
        if name in loaded.sources:
            yield Effective(
                name, toml_text(_value(loaded.config, key), key.field), loaded.sources[name]
            )


def as_toml(loaded: LoadedConfig) -> str:
    """The effective configuration as TOML, with each value's origin as a comment."""
    rows = list(effective(loaded))
    width = max(len(f"{row.key} = {row.text}") for row in rows if len(row.text) < _WIDE_CHARS)
    return "\n".join(f"{f'{row.key} = {row.text}':<{width}}  # {row.source}" for row in rows)


def as_data(loaded: LoadedConfig) -> dict[str, object]:
    """The effective configuration for JSON."""
    return {
        "path": loaded.path,
        "values": {
            row.key: {"value": tomli.loads(f"value = {row.text}")["value"], "source": row.source}
            for row in effective(loaded)
        },
    }


def summary(config: HostConfig) -> str:
    """One line: what a host of this configuration offers."""
    parts = [
        _count(len(config.profiles), "profile"),
        _count(len(config.streams), "static stream"),
    ]
    if config.policies.allow_dynamic_streams:
        parts.append(f"dynamic streams {config.driver.stream_id_range}")
    parts.append("supervisor" if config.supervisor is not None else "no supervisor")
    held = config.policies.epoch_gc_keep * sum(
        epoch_bytes(config.profiles[stream.profile]) for stream in config.streams.values()
    )
    parts.append(f"up to {held / _MIB:.1f} MiB for static streams")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _value(config: HostConfig, key: Key) -> object:
    value: object = config
    for part in key.path:
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value
