"""Errors that a user of the client can meet."""

from __future__ import annotations

from tensorpool.errors import TensorPoolError


class ClientError(TensorPoolError):
    """Base of the client's errors."""


class AttachRejected(ClientError):
    """The driver refused the lease; `code` is its response code, the message its diagnostic."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class NoDriver(ClientError):
    """No driver answered in time."""


class LeaseLost(ClientError):
    """The lease is gone and the caller chose not to wait for another."""


class FrameTooLarge(ClientError):
    """No pool of the stream has a stride that holds the frame (Wire §9)."""


class StaleFrame(ClientError):
    """The producer has overwritten the frame's slot, or is about to."""


class PoolClosed(ClientError):
    """The pool, producer or consumer was closed."""
