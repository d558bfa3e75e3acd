"""Region URIs: `shm:file?path=<absolute path>[|require_hugepages=true]` (Wire §15.22)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tensorpool.shm.errors import UriError

_SCHEME = "shm:file?"
_PATH = "path="
_MAX_PARAMETERS = 2
_HUGEPAGES = {"require_hugepages=true": True, "require_hugepages=false": False}
# abs-path = 1*( VCHAR except "?" and "|" and SP ), and absolute.
_ABS_PATH = re.compile(r"/[\x21-\x3e\x40-\x7b\x7d\x7e]*\Z")


@dataclass(frozen=True, slots=True)
class RegionUri:
    """A region's absolute path and whether its backing must be huge pages."""

    path: str
    require_hugepages: bool = False

    def __str__(self) -> str:
        flag = "true" if self.require_hugepages else "false"
        return f"{_SCHEME}{_PATH}{self.path}|require_hugepages={flag}"


def is_uri_path(path: str) -> bool:
    """Whether `path` can stand in a region URI (the ABNF's `abs-path`)."""
    return _ABS_PATH.match(path) is not None


def parse_region_uri(text: str) -> RegionUri:
    """The region that `text` names.

    Raises:
        UriError: another scheme, another or a repeated parameter, or no absolute path.
    """
    if not text.startswith(_SCHEME):
        raise UriError(f"region URI {text!r}: the only scheme is {_SCHEME}path=/absolute/path")
    parameters = text.removeprefix(_SCHEME).split("|")
    if not parameters[0].startswith(_PATH):
        raise UriError(f"region URI {text!r}: path= must come first")
    path = parameters[0].removeprefix(_PATH)
    if not is_uri_path(path):
        raise UriError(
            f"region URI {text!r}: the path must be absolute, of visible ASCII without '?' or '|'"
        )
    if len(parameters) == 1:
        return RegionUri(path)
    if len(parameters) > _MAX_PARAMETERS or parameters[1] not in _HUGEPAGES:
        raise UriError(
            f"region URI {text!r}: behind the path only |require_hugepages=true or =false may stand"
        )
    return RegionUri(path, _HUGEPAGES[parameters[1]])
