"""What of a wrong document can be judged further, so that the user meets all faults at once."""

import tomli
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tensorpool.config.operations import HostConfig
from tensorpool.config.translate import KEY_MARK, path_of, relevant
from tensorpool.config.tree import entry_of, item_of, kind_of, locate, table_of

_MAX_ROUNDS = 8
"""A document is as deep as this at most, and each round mends one level of it."""


def salvage(document: dict[str, object]) -> tuple[HostConfig | None, list[ErrorDetails]]:
    """The configuration of `document` with its wrong parts mended in place, and their errors.

    A wrong key takes its default, or an example where it has none; a finding that rests on
    such a key must be dropped. None if nothing can be mended.
    """
    try:
        return HostConfig.model_validate(document), []
    except ValidationError as error:
        first = errors = relevant(error)
    for _ in range(_MAX_ROUNDS):
        # The last items of an array first, so that the others keep their index.
        for detail in sorted(errors, key=_indexes, reverse=True):
            _mend(document, detail)
        try:
            return HostConfig.model_validate(document), first
        except ValidationError as error:
            errors = relevant(error)
    return None, first


def _indexes(error: ErrorDetails) -> tuple[int, ...]:
    return tuple(part if isinstance(part, int) else -1 for part in error["loc"])


def _mend(document: dict[str, object], error: ErrorDetails) -> None:
    path = path_of(error)
    holder: object = document
    for part in path[:-1]:
        if isinstance(holder, dict):
            holder = holder.get(part)
        elif isinstance(holder, list) and isinstance(part, int) and part < len(holder):
            holder = holder[part]
    last = path[-1]
    _, field = locate(HostConfig, path)
    replacement = None if KEY_MARK in error["loc"] else _example(field, last)
    if isinstance(holder, dict):
        if replacement is not None:
            holder[last] = replacement
        else:
            holder.pop(last, None)
    elif isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        if replacement is not None:
            holder[last] = replacement
        else:
            del holder[last]


def _example(field: FieldInfo | None, last: str | int) -> object:
    """A valid value for a key that has no default; None where leaving it out will do."""
    if field is None:
        return None
    if isinstance(last, int):
        item = item_of(field)
        return _item_example(item) if item is not None else None
    if not field.is_required() or table_of(field) is not None or entry_of(field) is not None:
        return None
    return tomli.loads(f"value = {kind_of(field).example}")["value"]


def _item_example(model: type[BaseModel]) -> dict[str, object]:
    return {name: _example(field, name) for name, field in model.model_fields.items()}
