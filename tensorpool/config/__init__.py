"""The configuration of a host: TOML, environment, rules, defaults (Driver §17).

    loaded = load(find_config(None, os.environ), os.environ)
    settings = to_settings(loaded.config)

Only this package imports pydantic and tomli. The processes of a host get the plain
`tensorpool.settings` and never import it.
"""

from tensorpool.config.derive import to_settings
from tensorpool.config.faults import Fault, InvalidConfig
from tensorpool.config.load import LoadedConfig, find_config, load
from tensorpool.config.operations import HostConfig

__all__ = [
    "Fault",
    "HostConfig",
    "InvalidConfig",
    "LoadedConfig",
    "find_config",
    "load",
    "to_settings",
]
