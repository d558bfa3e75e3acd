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

_hot, why_pure = load_hot()
is_native = _hot is not None
if not TYPE_CHECKING:
    if _hot is None:
        from tensorpool.client import slots as _hot
    DescriptorSink = _hot.DescriptorSink
    FrameState = _hot.FrameState
    SlotReader = _hot.SlotReader
    SlotWriter = _hot.SlotWriter

__all__ = ["DescriptorSink", "FrameState", "SlotReader", "SlotWriter", "is_native", "why_pure"]
