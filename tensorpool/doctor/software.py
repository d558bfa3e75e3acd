"""Python and the libraries, as this package's own metadata asks for them."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from importlib import metadata

from tensorpool.doctor.finding import Finding, Severity
from tensorpool.settings import HostSettings

_DISTRIBUTION = "tensorpool"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*\(?([^;)]*)\)?\s*(;.*)?\Z")
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*([0-9.]+)\Z")


def check_software(settings: HostSettings) -> Iterator[Finding]:  # noqa: ARG001 - as every check
    """Every requirement that is not met."""
    try:
        own = metadata.metadata(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return  # Run from a source tree: nothing says what is required.
    wanted = own.get("Requires-Python")
    if wanted and not is_satisfied(platform.python_version(), wanted):
        yield Finding(
            "python-version",
            Severity.ERROR,
            f"Python {platform.python_version()}",
            f"Python {wanted}",
            f"install tensorpool with a Python {wanted}",
        )
    yield from _libraries(own.get_all("Requires-Dist") or ())


def _libraries(requirements: Iterable[str]) -> Iterator[Finding]:
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is None or "extra" in (match[3] or ""):
            continue
        name, wanted = match[1], match[2].strip()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = None
        if found is not None and is_satisfied(found, wanted):
            continue
        yield Finding(
            "library-version",
            Severity.ERROR,
            f"{name} {found}" if found else f"{name} is not installed",
            f"{name} {wanted}".strip(),
            f"`pip install '{name}{wanted}'` in the environment of tensorpool",
        )


def is_satisfied(version: str, clauses: str) -> bool:
    """Whether `version` meets all comma-separated `clauses`; unknown operators are met."""
    found = _numbers(version)
    for clause in filter(None, (part.strip() for part in clauses.split(","))):
        match = _CLAUSE.match(clause)
        if match is None:
            continue
        bound = _numbers(match[2])
        width = max(len(found), len(bound))
        left = found + (0,) * (width - len(found))
        right = bound + (0,) * (width - len(bound))
        verdict = {
            ">=": left >= right,
            "<=": left <= right,
            ">": left > right,
            "<": left < right,
            "==": left == right,
            "!=": left != right,
        }[match[1]]
        if not verdict:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        digits = re.match(r"\d+", part)
        if digits is None:
            break
        numbers.append(int(digits[0]))
    return tuple(numbers)
