"""tensorpool: the shared-memory tensor bus for Linux hosts.

    import numpy as np, tensorpool

    with tensorpool.connect() as pool:
        with pool.producer(10000) as camera:
            camera.publish(np.zeros((480, 640), np.uint16))

Names load on first use, so that the host's processes do not pay for numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tensorpool.errors import ConfigError, HostError, TensorPoolError
from tensorpool.version import __version__

if TYPE_CHECKING:
    from tensorpool.client.consumer import Consumer
    from tensorpool.client.errors import (
        AttachRejected,
        ClientError,
        FrameTooLarge,
        LeaseLost,
        NoDriver,
        PoolClosed,
        StaleFrame,
    )
    from tensorpool.client.frame import Frame
    from tensorpool.client.keeper import PoolEvent
    from tensorpool.client.pool import Pool, connect
    from tensorpool.client.producer import ClaimedFrame, Producer

_LAZY = {
    "AttachRejected": "tensorpool.client.errors",
    "ClaimedFrame": "tensorpool.client.producer",
    "ClientError": "tensorpool.client.errors",
    "Consumer": "tensorpool.client.consumer",
    "Frame": "tensorpool.client.frame",
    "FrameTooLarge": "tensorpool.client.errors",
    "LeaseLost": "tensorpool.client.errors",
    "NoDriver": "tensorpool.client.errors",
    "Pool": "tensorpool.client.pool",
    "PoolClosed": "tensorpool.client.errors",
    "PoolEvent": "tensorpool.client.keeper",
    "Producer": "tensorpool.client.producer",
    "StaleFrame": "tensorpool.client.errors",
    "connect": "tensorpool.client.pool",
}

__all__ = [
    "AttachRejected",
    "ClaimedFrame",
    "ClientError",
    "ConfigError",
    "Consumer",
    "Frame",
    "FrameTooLarge",
    "HostError",
    "LeaseLost",
    "NoDriver",
    "Pool",
    "PoolClosed",
    "PoolEvent",
    "Producer",
    "StaleFrame",
    "TensorPoolError",
    "__version__",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tensorpool' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
