"""Adding a stream to a configuration file: a table at its end, everything else untouched.

The file stays the one owner of what the static streams are: a stream that was only told to
the driver would be gone after the next start.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from tensorpool.config import LoadedConfig, load
from tensorpool.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NewStream:
    """A `[streams.<name>]` table to be."""

    name: str
    stream_id: int
    profile: str

    @property
    def toml(self) -> str:
        """Its lines."""
        quoted = self.name if _is_bare(self.name) else _string(self.name)
        return (
            f"[streams.{quoted}]\nstream_id = {self.stream_id}\nprofile = {_string(self.profile)}\n"
        )


def add_stream(path: str, stream: NewStream, environ: Mapping[str, str]) -> LoadedConfig:
    """Append `stream` to the file at `path`, if the result is a valid configuration.

    The file is replaced in one step, with its owner and mode.

    Raises:
        ConfigError: the name is taken, the result breaks a rule (as `config check` tells it),
            or the file cannot be replaced. It is unchanged then.
    """
    former = load(path, environ).config
    if stream.name in former.streams:
        raise ConfigError(f"{path}: [streams.{stream.name}] is there already; choose another name")
    if os.path.islink(path):
        raise ConfigError(
            f"{path} is a symlink to {os.path.realpath(path)}; name that file, or change it where "
            "it is managed"
        )
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    ending = "" if text.endswith("\n") or not text else "\n"
    try:
        staging_fd, staging = tempfile.mkstemp(
            prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(os.path.abspath(path))
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be replaced: {error.strerror}") from error
    try:
        with open(staging_fd, "w", encoding="utf-8", newline="") as file:
            file.write(f"{text}{ending}\n{stream.toml}")
            _copy_owner(path, file.fileno())
        try:
            loaded = load(staging, environ)
        except ConfigError as error:
            raise ConfigError(str(error).replace(staging, f"{path}, as it would be")) from error
        os.rename(staging, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staging)
        raise
    return LoadedConfig(loaded.config, loaded.sources, path)


def _copy_owner(path: str, fd: int) -> None:
    info = os.stat(path)
    with contextlib.suppress(PermissionError):  # Only root gives files away.
        os.fchown(fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))


def _is_bare(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
