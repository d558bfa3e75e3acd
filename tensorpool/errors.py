"""The base of every error that tensorpool raises on purpose.

Each layer derives its own: an error names what was wrong, the value, the rule and the
remedy in its message, so that a command can print it as it is.
"""


class TensorPoolError(Exception):
    """Base of every error of tensorpool."""


class ConfigError(TensorPoolError):
    """The configuration cannot be used. Commands exit with status 2 on it."""


class HostError(TensorPoolError):
    """The host refuses at run time: no space, no permission, a taken lock. Exit status 1."""
