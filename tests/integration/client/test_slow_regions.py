"""Regions that take longer to make than a client waits for an answer before it asks again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorpool
from tensorpool.client import lease_protocol
from tensorpool.clock import NS_PER_MS
from tests.integration.host import Tables, running_host

STREAM = 1500
TABLES: Tables = {
    "supervisor": None,
    "profiles": {
        "large": {
            "header_nslots": 64,
            "payload_pools": [{"pool_id": 1, "stride_bytes": (1 << 30) // 64}],
        },
    },
    "streams": {"large": {"stream_id": STREAM, "profile": "large"}},
    "policies": {"prefault_shm": True},
}


def test_who_asks_again_gets_what_was_asked_for(
    tmp_shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_protocol, "_ATTACH_TIMEOUT_NS", 10 * NS_PER_MS)
    with (
        running_host(tmp_shm, TABLES) as host,
        tensorpool.connect(host.config) as pool,
        pool.producer(STREAM, timeout_s=60) as camera,
        pool.consumer(STREAM, timeout_s=60) as view,
    ):
        assert camera._lease.asked > 1, "the regions were there at once: make them larger"
        camera.publish(np.arange(4, dtype=np.uint8))
        assert view.next(20) is not None
        # No refusal, no second lease, no epoch made for nothing.
        assert [event.what for event in pool.events] == ["attached", "attached"]
