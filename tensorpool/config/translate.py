"""Validation errors of the models, put as faults."""

import difflib

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tensorpool.config.faults import MASK, Fault, Path, dotted, is_secret, shown
from tensorpool.config.operations import HostConfig
from tensorpool.config.origins import Origins
from tensorpool.config.tree import entry_of, example_of, item_of, keys, kind_of, locate, table_of

KEY_MARK = "[key]"
"""How pydantic marks that the name of an entry, not its value, is wrong."""
_FOLLOWS_FROM_ANOTHER = "default_factory_not_called"
_ALIKE = 0.5
"""How alike, by difflib's measure, a misspelt name is to the one that was meant."""
_TABLE_TYPES = frozenset({"dict_type", "model_type", "model_attributes_type"})


def path_of(error: ErrorDetails) -> Path:
    """Where an error stands."""
    # A table may really be called like pydantic's mark: then nothing else is left of its path.
    return tuple(part for part in error["loc"] if part != KEY_MARK) or error["loc"]


def relevant(error: ValidationError) -> list[ErrorDetails]:
    """The errors that are causes, not consequences of others."""
    details = error.errors(include_url=False)
    return [detail for detail in details if detail["type"] != _FOLLOWS_FROM_ANOTHER]


def fault_of(error: ErrorDetails, origins: Origins) -> Fault:
    """`error` with its key, value, rule and remedy."""
    path = path_of(error)
    rule, remedy = _rule(error, path)
    value = shown(error["input"], path)
    if error["type"] == "missing" or KEY_MARK in error["loc"]:
        value = ""
    elif error["type"] == "extra_forbidden" and _may_be_misspelt_secret(path):
        value = MASK
    return origins.fault(path, value, rule, remedy)


def _rule(error: ErrorDetails, path: Path) -> tuple[str, str]:
    if error["type"] == "rule":
        context = error["ctx"]
        return str(context["rule"]), str(context["remedy"])
    if error["type"] == "extra_forbidden":
        return _unknown(path)
    if error["type"] in _TABLE_TYPES:
        return _no_table(path)
    field = locate(HostConfig, path)[1]
    if field is None or table_of(field) is not None or entry_of(field) is not None:
        return error["msg"], "see docs/configuration.md"
    kind = kind_of(field)
    if error["type"] == "missing":
        return f"required; {kind.toml}: {kind.rule}", f"add {path[-1]} = {kind.example}"
    return f"{kind.toml}: {kind.rule}", f"write it like {_key_name(path)} = {example_of(field)}"


def _no_table(path: Path) -> tuple[str, str]:
    if isinstance(path[-1], int):
        return "a table of the array's keys", "write { pool_id = 1, stride_bytes = 1048576 }"
    return "a table", f"write a table [{dotted(path)}] with its keys below"


def _key_name(path: Path) -> str:
    """The innermost key, without the index of an array's item."""
    return next(str(part) for part in reversed(path) if isinstance(part, str))


def _unknown(path: Path) -> tuple[str, str]:
    name = str(path[-1])
    known = _siblings(path)
    if len(path) > 1:
        rule = f"a key that tensorpool knows in [{dotted(path[:-1])}]"
    else:
        rule = "a table that tensorpool knows"
    elsewhere = next((key.path for key in keys(HostConfig) if key.path[-1] == name), None)
    if elsewhere is not None:
        return rule, f"it belongs to [{dotted(elsewhere[:-1])}]: move it there"
    close = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
    if close or (close := [candidate for candidate in known if name in candidate.split("_")]):
        return rule, f"did you mean {close[0]}?"
    return rule, f"remove it; known are {', '.join(known)}"


def _siblings(path: Path) -> list[str]:
    table, field = locate(HostConfig, path[:-1])
    if field is not None and (item := item_of(field)) is not None:
        table = item
    return list(table.model_fields) if table is not None else []


def _may_be_misspelt_secret(path: Path) -> bool:
    secrets = [key.path[-1] for key in keys(HostConfig) if is_secret(key.path)]
    return bool(difflib.get_close_matches(str(path[-1]), secrets, n=1, cutoff=_ALIKE))
