"""The reference tables of `docs/configuration.md`, made from the models.

    python -m tensorpool.config.reference

prints what belongs between the document's markers; a test compares the two.
"""

import sys
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from tensorpool.config.faults import dotted
from tensorpool.config.operations import HostConfig
from tensorpool.config.tree import default_of, default_text, item_of, keys, kind_of

_NAME = "NAME"
_COLUMNS = ("key", "type", "default", "environment", "effect", "rule")
_HEADER = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"


def reference() -> str:
    """One Markdown table a TOML table, under a heading of its name."""
    sections: dict[str, list[str]] = {}
    placeholders: dict[str, object] = {"profiles": {_NAME: {}}, "streams": {_NAME: {}}}
    for key in keys(HostConfig, placeholders):
        table = dotted(key.path[:-1]).replace(f".{_NAME}", ".<name>")
        rows = sections.setdefault(table, [])
        variables = ", ".join(f"`{name}`" for name in key.variables)
        rows.append(_row(key.path[-1], key.field, variables.replace(f"_{_NAME}_", "_<NAME>_")))
        rows += _item_rows(key.path[-1], key.field)
    return "\n\n".join(
        "\n".join([f"### `[{table}]`", "", _HEADER, *rows]) for table, rows in sections.items()
    )


def _item_rows(name: str, field: FieldInfo) -> Iterator[str]:
    item = item_of(field)
    for item_name, item_field in item.model_fields.items() if item is not None else ():
        yield _row(f"{name}[].{item_name}", item_field, "")


def _row(name: str, field: FieldInfo, variables: str) -> str:
    kind = kind_of(field)
    cells = (f"`{name}`", kind.toml, _default(field), variables, field.description, kind.rule)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if (text := default_text(field)) is not None:
        return text
    value = default_of(field)
    return "unset" if value in (None, '""') else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(reference() + "\n")
