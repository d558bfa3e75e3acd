"""Why bytes are no message, or a message cannot become bytes."""

from __future__ import annotations

from tensorpool.errors import TensorPoolError


class WireError(TensorPoolError):
    """Base of every codec error."""


class EncodeError(WireError):
    """A value does not fit the field that it is for."""


class MalformedMessage(WireError):
    """The bytes break the schema: too short, wrong block length, a length beyond the buffer."""


class UnknownMessage(WireError):
    """The schema id or the template id is none of ours (Driver §4.4a)."""


class UnsupportedVersion(WireError):
    """The message is of a newer schema version than ours (Driver §4.4a).

    `message` is what the fixed fields that we know say (groups and variable data empty), so
    that a driver can still answer with the right correlation id, or None if not even they
    can be read.
    """

    def __init__(self, text: str, message: object | None) -> None:
        super().__init__(text)
        self.message = message
