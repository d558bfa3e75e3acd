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
    from tensorpool.aeron.client import MediaDriverLost
    from tensorpool.client.claims import ClaimedFrame
    from tensorpool.client.consumer import Consumer
    from tensorpool.client.errors import (
        AttachRejected,
        ClaimOver,
        ClientError,
        ConcurrentUse,
        ForkedProcess,
        FrameFieldError,
        FrameTooLarge,
        LeaseLost,
        NoDriver,
        PoolClosed,
        SharedMemoryDenied,
        StaleFrame,
        TooManyClaims,
    )
    from tensorpool.client.events import PoolEvent
    from tensorpool.client.frame import Frame
    from tensorpool.client.gathering import Gathering
    from tensorpool.client.metadata import Attribute, Metadata, MetadataError
    from tensorpool.client.pool import Pool, connect
    from tensorpool.client.producer import Producer
    from tensorpool.client.progress import PartialFrame, ProgressHints
    from tensorpool.client.tensors import TensorLayout
    from tensorpool.shm.errors import ShmError, TensorError
    from tensorpool.wire.control import Dtype, FrameProgressState, MajorOrder, Mode

_LAZY = {
    "AttachRejected": "tensorpool.client.errors",
    "Attribute": "tensorpool.client.metadata",
    "ClaimOver": "tensorpool.client.errors",
    "ClaimedFrame": "tensorpool.client.claims",
    "ClientError": "tensorpool.client.errors",
    "ConcurrentUse": "tensorpool.client.errors",
    "Consumer": "tensorpool.client.consumer",
    "Dtype": "tensorpool.wire.control",
    "ForkedProcess": "tensorpool.client.errors",
    "Frame": "tensorpool.client.frame",
    "FrameFieldError": "tensorpool.client.errors",
    "FrameProgressState": "tensorpool.wire.control",
    "FrameTooLarge": "tensorpool.client.errors",
    "Gathering": "tensorpool.client.gathering",
    "LeaseLost": "tensorpool.client.errors",
    "MajorOrder": "tensorpool.wire.control",
    "MediaDriverLost": "tensorpool.aeron.client",
    "Metadata": "tensorpool.client.metadata",
    "MetadataError": "tensorpool.client.metadata",
    "Mode": "tensorpool.wire.control",
    "NoDriver": "tensorpool.client.errors",
    "PartialFrame": "tensorpool.client.progress",
    "Pool": "tensorpool.client.pool",
    "PoolClosed": "tensorpool.client.errors",
    "PoolEvent": "tensorpool.client.events",
    "Producer": "tensorpool.client.producer",
    "ProgressHints": "tensorpool.client.progress",
    "SharedMemoryDenied": "tensorpool.client.errors",
    "ShmError": "tensorpool.shm.errors",
    "StaleFrame": "tensorpool.client.errors",
    "TensorError": "tensorpool.shm.errors",
    "TensorLayout": "tensorpool.client.tensors",
    "TooManyClaims": "tensorpool.client.errors",
    "connect": "tensorpool.client.pool",
}

__all__ = [
    "AttachRejected",
    "Attribute",
    "ClaimOver",
    "ClaimedFrame",
    "ClientError",
    "ConcurrentUse",
    "ConfigError",
    "Consumer",
    "Dtype",
    "ForkedProcess",
    "Frame",
    "FrameFieldError",
    "FrameProgressState",
    "FrameTooLarge",
    "Gathering",
    "HostError",
    "LeaseLost",
    "MajorOrder",
    "MediaDriverLost",
    "Metadata",
    "MetadataError",
    "Mode",
    "NoDriver",
    "PartialFrame",
    "Pool",
    "PoolClosed",
    "PoolEvent",
    "Producer",
    "ProgressHints",
    "SharedMemoryDenied",
    "ShmError",
    "StaleFrame",
    "TensorError",
    "TensorLayout",
    "TensorPoolError",
    "TooManyClaims",
    "__version__",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tensorpool' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
