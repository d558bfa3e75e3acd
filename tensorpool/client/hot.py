"""The per-frame path: the types of the C module where it was built, else their twins in Python.

Attributes:
    is_native: whether they are C.
    why_pure: why they are not, "" if they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorpool.native import load_hot

if TYPE_CHECKING:
    from tensorpool.client.slots import DescriptorSink, FrameState, SlotReader, SlotWriter
    from tensorpool.client.states import ClaimState, ConsumerState, ProducerState, UserGate

_hot, why_pure = load_hot()
is_native = _hot is not None
if not TYPE_CHECKING:
    if _hot is None:
        from tensorpool.client import slots as _hot
        from tensorpool.client.states import ClaimState, ConsumerState, ProducerState, UserGate
    else:
        ClaimState = _hot.ClaimState
        ConsumerState = _hot.ConsumerState
        ProducerState = _hot.ProducerState
        UserGate = _hot.UserGate
    DescriptorSink = _hot.DescriptorSink
    FrameState = _hot.FrameState
    SlotReader = _hot.SlotReader
    SlotWriter = _hot.SlotWriter

__all__ = [
    "ClaimState",
    "ConsumerState",
    "DescriptorSink",
    "FrameState",
    "ProducerState",
    "SlotReader",
    "SlotWriter",
    "UserGate",
    "is_native",
    "why_pure",
]
