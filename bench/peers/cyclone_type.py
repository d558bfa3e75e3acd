"""Cyclone DDS's type of a frame: its module must not postpone the evaluation of annotations."""

from dataclasses import dataclass

from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import sequence, uint8


@dataclass
class Octets(IdlStruct):  # type: ignore[misc] # untyped
    """One frame."""

    data: sequence[uint8]
