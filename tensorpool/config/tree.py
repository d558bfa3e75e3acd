"""The model tree walked: every key that can be set, and the field that a path leads to.

Environment names come from this walk and never from splitting a name:
`DRIVER_CONTROL_STREAM_ID` does not say by itself where its table ends.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tensorpool.config.faults import MASK, Path
from tensorpool.config.metadata import Computed, Environment, Inherits, Kind

_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that holds a value.

    Attributes:
        path: its tables and its name.
        field: the model's field.
        variables: environment variables that set it, in order of precedence.
    """

    path: tuple[str, ...]
    field: FieldInfo
    variables: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """How its value is written."""
        return kind_of(self.field)


def variable_name(path: tuple[str, ...]) -> str:
    """The environment name of a key (Driver §17): upper case, `_` for what divides words."""
    return _NOT_IN_A_NAME.sub("_", "_".join(path).upper())


def keys(model: type[BaseModel], document: Mapping[str, object] | None = None) -> Iterator[Key]:
    """Every key of `model`.

    With a `document` the tables with names of the user's choice (`profiles`, `streams`) are
    walked for the names in it; without one they are left out.
    """
    yield from _keys(model, (), document)


def _keys(
    model: type[BaseModel], path: tuple[str, ...], document: Mapping[str, object] | None
) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        value = document.get(name) if document is not None else None
        inner = value if isinstance(value, dict) else {}
        if (table := table_of(field)) is not None:
            yield from _keys(table, here, inner if document is not None else None)
        elif (entry := entry_of(field)) is not None:
            for entry_name, entry_value in inner.items():
                entry_document = entry_value if isinstance(entry_value, dict) else {}
                yield from _keys(entry, (*here, entry_name), entry_document)
        else:
            own = next((m for m in field.metadata if isinstance(m, Environment)), None)
            yield Key(here, field, own.names if own else (variable_name(here),))


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a table, or may be one."""
    return _model_among(_arms(field.annotation))


def entry_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of each entry of a field that maps names to tables."""
    if get_origin(field.annotation) is not dict:
        return None
    entry: type[BaseModel] = get_args(field.annotation)[1]
    return entry


def item_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of each item of a field that is an array of tables."""
    if get_origin(field.annotation) is not list:
        return None
    return _model_among(get_args(field.annotation))


def kind_of(field: FieldInfo) -> Kind:
    """How a field's value is written."""
    return next(m for m in field.metadata if isinstance(m, Kind))


def example_of(field: FieldInfo) -> str:
    """A valid value as TOML text: the default, where there is one to show."""
    shown = default_of(field)
    return shown if shown not in (None, '""') else kind_of(field).example


def default_of(field: FieldInfo) -> str | None:
    """The default as TOML text; None if the key is required, unset, or follows from others."""
    if field.is_required() or field.default_factory is not None or field.default is None:
        return None
    return toml_text(field.default, field)


def toml_text(value: object, field: FieldInfo) -> str:
    """`value`, as the models hold it, as TOML would write it for `field`."""
    if isinstance(value, SecretStr):
        return f'"{MASK}"' if value.get_secret_value() else '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f'"{value:o}"' if kind_of(field).toml == "string" else str(value)
    if isinstance(value, list):
        return f"[{', '.join(_item_text(item, field) for item in value)}]"
    # A StreamIdRange prints itself as "first-last"; an unset range is an empty string.
    return json.dumps("" if value is None else str(value), ensure_ascii=False)


def _item_text(item: object, field: FieldInfo) -> str:
    if not isinstance(item, BaseModel):
        return toml_text(item, field)
    model = type(item).model_fields
    pairs = (f"{name} = {toml_text(getattr(item, name), model[name])}" for name in model)
    return f"{{ {', '.join(pairs)} }}"


def default_text(field: FieldInfo) -> str | None:
    """Where a field's default comes from, if it is not a value of its own."""
    return next((m.text for m in field.metadata if isinstance(m, Computed | Inherits)), None)


def locate(model: type[BaseModel], path: Path) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The innermost table on the way to `path` and the field there, as far as they exist."""
    table: type[BaseModel] | None = model
    field: FieldInfo | None = None
    entry: type[BaseModel] | None = None
    for part in path:
        if entry is not None:
            table, field, entry = entry, None, None
            continue
        if table is None or not isinstance(part, str):
            break
        field = table.model_fields.get(part)
        if field is None:
            break
        if (inner := table_of(field)) is not None:
            table = inner
        else:
            entry = entry_of(field) or item_of(field)
    return table, field


def _arms(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def _model_among(candidates: tuple[object, ...]) -> type[BaseModel] | None:
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
