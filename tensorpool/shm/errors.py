"""Why a region is not mapped or a frame not accepted."""

from __future__ import annotations

from tensorpool.errors import TensorPoolError


class ShmError(TensorPoolError):
    """Base of every shared-memory error."""


class UriError(ShmError):
    """The text is no region URI of Wire §15.22."""


class ContainmentError(ShmError):
    """The path leads outside the allowed base directories, or is no plain file (Wire §15.21a.5)."""


class RegionError(ShmError):
    """The file is not the region that was announced (Wire §15.1, §15.22)."""


class TensorError(ShmError):
    """Shape, element type or strides break Wire §8.2."""
