"""Errors that a user of the client can meet. All derive from `tensorpool.TensorPoolError`."""

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


class FrameFieldError(ClientError, ValueError):
    """A frame's timestamp, metadata version or trace id is no integer of its range."""


class FrameTooLarge(ClientError):
    """No pool of the stream has a stride that holds the frame (Wire §9)."""


class TooManyClaims(ClientError):
    """Every slot of the ring is claimed: publish or abandon the oldest claim first."""


class ClaimOver(ClientError):
    """The claim was published or abandoned already."""


class StaleFrame(ClientError):
    """The producer has overwritten the frame's slot, or is about to."""


class SharedMemoryDenied(ClientError):
    """A supervisor told this consumer not to read shared memory (Wire §10.1.3, `use_shm=0`).

    Attributes:
        payload_fallback_uri: where the payload can be had instead, "" if nowhere.
    """

    def __init__(self, message: str, payload_fallback_uri: str) -> None:
        super().__init__(message)
        self.payload_fallback_uri = payload_fallback_uri


class ConcurrentUse(ClientError):
    """Two threads used one producer or consumer at once; each is for one thread at a time."""


class ForkedProcess(ClientError):
    """A forked child used what its parent has; a child calls `tensorpool.connect` itself."""


class PoolClosed(ClientError):
    """The pool, producer or consumer was closed."""
