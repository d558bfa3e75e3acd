"""The configuration loader: a TOML file and an environment in, settings or a ConfigError out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tensorpool.config import load, to_settings
from tensorpool.config.load import BUILT_IN_PATH
from tensorpool.errors import ConfigError

_SEPARATOR = b"\0"


@contextmanager
def open_loader(directory: Path) -> Iterator[Callable[[bytes], None]]:
    """An input is a TOML file, then after a NUL the environment, a variable a line."""
    path = directory / "config.toml"

    def check(data: bytes) -> None:
        text, _, environment = data.partition(_SEPARATOR)
        path.write_bytes(text)
        pairs = (line.partition("=") for line in environment.decode("utf-8", "replace").split("\n"))
        environ = {name: value for name, mark, value in pairs if mark}
        try:
            settings = to_settings(load(str(path), environ).config)
        except ConfigError as error:
            assert str(error), "an error says what is wrong"
            return
        policies = settings.policies
        assert policies.max_leases > 0
        assert policies.lease_ttl_ns >= policies.lease_keepalive_interval_ns > 0
        assert settings.shm.base_dir.startswith("/")
        other = replace(settings, policies=replace(policies, shutdown_token=""))
        assert repr(settings) == repr(other), "the token is not shown"

    yield check


def seeds() -> list[bytes]:
    """The built-in file, its parts, and values at the edges of their types."""
    built_in = BUILT_IN_PATH.read_bytes()
    small = (
        b"[profiles.p]\nheader_nslots = 8\npayload_pools = [{pool_id = 1, stride_bytes = 4096}]\n"
        b'[streams.s]\nstream_id = 1\nprofile = "p"\n[driver]\nstream_id_range = "20000-20010"\n'
    )
    return [
        built_in,
        built_in
        + b"\0TENSORPOOL_SHM_BASE_DIR=/dev/shm/x\nTP_LOG_LEVEL=DEBUG\nAERON_DIR=/dev/shm/y",
        small,
        small + b'[policies]\nshutdown_token = "secret-token"\nlease_keepalive_interval_ms = 1\n',
        b'[shm]\npermissions_mode = "0777"\nbase_dir = "../x"\nnamespace = "."\n',
        b"[supervisor]\nconsumer_capacity = -1\nforce_mode = 9\n[metrics]\nport = 70000\n",
        b"a = [[[[[[[[1]]]]]]]]\n[x.y]\nz = 1e999\ni = 0xffffffffffffffffff\n",
        b"[driver]\naeron_dir = 1979-05-27T07:32:00Z\n",
        b'\xef\xbb\xbf[driver]\r\nannounce_channel = "aeron:ipc?"\r\n',
    ]
