"""Documents that the tests of the configuration start from."""

import tomli

from tensorpool.config.faults import Fault, InvalidConfig
from tensorpool.config.load import LoadedConfig, validate

MINIMAL = """
[profiles.camera]
payload_pools = [{ pool_id = 1, stride_bytes = 4096 }]

[streams.cam1]
stream_id = 10000
profile = "camera"
"""


def document(text: str = "", *, base: str = MINIMAL) -> dict[str, object]:
    """`base` with the tables of `text` laid over it, key by key."""
    merged = tomli.loads(base)
    _lay(merged, tomli.loads(text))
    return merged


def _lay(below: dict[str, object], above: dict[str, object]) -> None:
    for key, value in above.items():
        present = below.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _lay(present, value)
        else:
            below[key] = value


def accepted(text: str = "", environ: dict[str, str] | None = None) -> LoadedConfig:
    """The configuration that `text` makes over the minimal one."""
    return validate(document(text), environ or {})


def faults_of(text: str, environ: dict[str, str] | None = None) -> tuple[Fault, ...]:
    """The faults of `text` over the minimal configuration; none if it is valid."""
    try:
        validate(document(text), environ or {})
    except InvalidConfig as error:
        return error.faults
    return ()


def only_fault(text: str, environ: dict[str, str] | None = None) -> Fault:
    """The one fault of `text`; more or less than one fails the test."""
    faults = faults_of(text, environ)
    assert len(faults) == 1, faults
    return faults[0]
