"""From a file and the environment to a valid configuration, or to all faults at once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

import tomli

from tensorpool.config.environment import merge
from tensorpool.config.faults import Fault, InvalidConfig, Path, dotted, shown
from tensorpool.config.finding import Finding
from tensorpool.config.inherit import resolve
from tensorpool.config.lines import key_lines
from tensorpool.config.operations import HostConfig
from tensorpool.config.origins import Origins
from tensorpool.config.rules import check
from tensorpool.config.salvage import salvage
from tensorpool.config.translate import fault_of, path_of
from tensorpool.config.tree import keys
from tensorpool.errors import ConfigError

BUILT_IN = "built-in"
"""Source of the values of the configuration that is used when no file is named."""
BUILT_IN_PATH = FilePath(__file__).with_name("default.toml")
CONFIG_VARIABLE = "TENSORPOOL_CONFIG"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid configuration.

    Attributes:
        config: the effective values.
        sources: where each came from, by dotted key: `default`, `built-in`, `file PATH`
            or `env NAME`.
        path: the file, or None for the built-in default.
    """

    config: HostConfig
    sources: Mapping[str, str]
    path: str | None


def find_config(explicit: str | None, environ: Mapping[str, str]) -> str | None:
    """The file to load: `--config`, else `TENSORPOOL_CONFIG`, else None, the built-in default."""
    return explicit or environ.get(CONFIG_VARIABLE) or None


def load(path: str | None, environ: Mapping[str, str], *, fits_host: bool = True) -> LoadedConfig:
    """The configuration of `path` (None: the built-in default) under `environ`.

    Without `fits_host` it is not judged by the space of this host: `doctor` does that itself.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
        InvalidConfig: it breaks rules; all of them are in it.
    """
    file = str(BUILT_IN_PATH) if path is None else path
    text = _read(file)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(
            f"{file}: line {error.lineno}, column {error.colno}: no valid TOML: {error.msg}; "
            "put that line right"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{file}: arrays or tables nested too deeply; flatten them") from error
    except ValueError as error:
        # An integer of more digits than Python converts.
        raise ConfigError(f"{file}: no valid TOML: {error}; put that value right") from error
    return validate(document, environ, path, key_lines(text), fits_host=fits_host)


def validate(
    document: dict[str, object],
    environ: Mapping[str, str],
    path: str | None = None,
    lines: Mapping[Path, int] | None = None,
    *,
    fits_host: bool = True,
) -> LoadedConfig:
    """The configuration that `document`, which is used up, and `environ` make.

    Raises:
        InvalidConfig: it breaks rules; all of them are in it.
    """
    merged = merge(document, environ, BUILT_IN if path is None else f"file {path}")
    origins = Origins(merged.sources, lines or {})
    faults, faulty = list(merged.faults), set(merged.faulty)
    config, errors = salvage(merged.document)
    for error in errors:
        if error["type"] == "missing" and path_of(error) in merged.faulty:
            continue
        faults.append(fault_of(error, origins))
        faulty.add(path_of(error))
    if config is not None:
        config = resolve(config)
        faults += [
            _fault(finding, origins)
            for finding in check(config, fits_host=fits_host)
            if not _rests_on(finding, faulty)
        ]
    if faults or config is None:
        raise InvalidConfig(path or "built-in configuration", _ordered(faults))
    sources = {
        dotted(key.path): merged.sources.get(key.path, "default")
        for key in keys(HostConfig, merged.document)
        if config.supervisor is not None or key.path[0] != "supervisor"
    }
    return LoadedConfig(config, sources, path)


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a directory; name the TOML file in it") from error
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file; name an existing one, or none for the built-in default"
        ) from error
    except PermissionError as error:
        raise ConfigError(f"{path}: may not be read; check its owner and mode") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path!r}: cannot be read: {error}; name a TOML file") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; this is no configuration")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8"
        ) from error


def _fault(finding: Finding, origins: Origins) -> Fault:
    value = "" if finding.value is None else shown(finding.value, finding.path)
    return origins.fault(finding.path, value, finding.rule, finding.remedy)


def _rests_on(finding: Finding, faulty: set[Path]) -> bool:
    """Whether a finding may be a mere consequence of something already found wrong."""
    return any(_related(path, bad) for path in finding.involves for bad in faulty)


def _related(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _ordered(faults: list[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.line is None, fault.line or 0))
