"""The environment laid over the file (Driver §17), with each value's origin remembered."""

import os
import pwd
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import tomli

from tensorpool.config.faults import Fault, Path, dotted, shown
from tensorpool.config.operations import HostConfig
from tensorpool.config.tree import Key, example_of, keys

ENVIRONMENT = "env "
"""How the source of a value from the environment begins; the variable's name follows."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}\Z")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_EMPTY_MEANS_UNSET = frozenset({"string", "string or array"})
_OPTIONAL_TABLE = "supervisor"


@dataclass(slots=True)
class Merged:
    """A document with the environment laid over it.

    Attributes:
        document: what is to be validated.
        sources: origin of every key that is set; the others have their default.
        faults: variables that could not be applied.
        faulty: the keys that those stand for.
    """

    document: dict[str, object]
    sources: dict[Path, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)


def merge(document: dict[str, object], environ: Mapping[str, str], origin: str) -> Merged:
    """Lay `environ` over `document`, in place.

    Empty strings and empty variables are unset. `origin` is the source noted for values of
    the document.
    """
    merged = Merged(document)
    all_keys = list(keys(HostConfig, document))
    owners: dict[str, list[Key]] = defaultdict(list)
    for key in all_keys:
        for name in key.variables:
            owners[name].append(key)
    for key in all_keys:
        _note_file_value(merged, key, origin)
        variable = next((name for name in key.variables if environ.get(name)), None)
        if variable is not None:
            _apply(merged, key, variable, environ[variable], owners[variable])
    _default_aeron_dir(merged, environ)
    return merged


def default_aeron_dir(environ: Mapping[str, str]) -> str:
    """Where Aeron's C library looks for a media driver when nobody tells it."""
    user = environ.get("USER")
    if user is None:
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = "default"
    return f"/dev/shm/aeron-{user}"  # noqa: S108 - Aeron's own choice, interoperable


def _note_file_value(merged: Merged, key: Key, origin: str) -> None:
    table = _table(merged.document, key.path)
    if table is None or key.path[-1] not in table:
        return
    if table[key.path[-1]] == "" and key.kind.toml in _EMPTY_MEANS_UNSET:
        del table[key.path[-1]]
        return
    merged.sources[key.path] = origin


def _apply(merged: Merged, key: Key, variable: str, text: str, owners: list[Key]) -> None:
    def fault(rule: str, remedy: str) -> None:
        value = shown(text, (*key.path, variable))
        merged.faults.append(Fault(variable, value, rule, remedy))
        merged.faulty.add(key.path)

    if len(owners) > 1:
        if key is owners[0]:
            names = " and ".join(dotted(owner.path) for owner in owners)
            fault(
                f"a variable stands for one key; this one stands for {names}",
                "unset it, or rename one of them",
            )
        return
    if key.path[0] == _OPTIONAL_TABLE and _OPTIONAL_TABLE not in merged.document:
        fault(
            f"a variable sets a key of a table that is there; [{_OPTIONAL_TABLE}] is absent, "
            "which disables it",
            f"write an empty [{_OPTIONAL_TABLE}] table in the file, or unset the variable",
        )
        return
    try:
        value = _parse(text, key.kind.toml)
    except ValueError:
        _drop(merged, key)
        fault(
            f"{key.kind.toml}: {key.kind.rule}",
            f"set it like {variable}={_bare(example_of(key.field))}",
        )
        return
    table = _table(merged.document, key.path, make=True)
    if table is not None:
        table[key.path[-1]] = value
        merged.sources[key.path] = ENVIRONMENT + variable


def _bare(example: str) -> str:
    """A TOML value as the environment holds it: strings without their quotes."""
    return example.strip('"')


def _drop(merged: Merged, key: Key) -> None:
    """The file's value must neither stand in for a wrong variable nor be judged twice."""
    table = _table(merged.document, key.path)
    if table is not None:
        table.pop(key.path[-1], None)
    merged.sources.pop(key.path, None)


def _table(
    document: dict[str, object], path: tuple[str, ...], *, make: bool = False
) -> dict[str, object] | None:
    """The table that holds `path`'s last key; None if it is absent or no table."""
    table = document
    for name in path[:-1]:
        inner = table.setdefault(name, {}) if make else table.get(name)
        if not isinstance(inner, dict):
            return None
        table = inner
    return table


def _parse(text: str, toml: str) -> object:
    """The value of a variable for a key of TOML type `toml`.

    Raises:
        ValueError: the text is no such value.
    """
    if toml == "string":
        return text
    text = text.strip()
    if toml == "integer":
        if not _INTEGER.match(text):
            raise ValueError(text)
        return int(text)
    if toml == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if text.startswith("["):
        return _parse_array(text)
    if toml == "array of strings":
        return [item.strip() for item in text.split(",")]
    if toml == "string or array":
        return text
    raise ValueError(text)


def _parse_array(text: str) -> object:
    try:
        parsed = tomli.loads(f"value = {text}\n")
    except RecursionError as error:
        raise ValueError(text) from error
    if parsed.keys() != {"value"}:
        raise ValueError(text)
    return parsed["value"]


def _default_aeron_dir(merged: Merged, environ: Mapping[str, str]) -> None:
    path = ("driver", "aeron_dir")
    if path in merged.faulty:
        return
    table = _table(merged.document, path, make=True)
    if table is not None:
        table.setdefault(path[-1], default_aeron_dir(environ))
