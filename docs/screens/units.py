"""Values in the units of Grafana that our dashboard uses, and round numbers for an axis."""

import math
from collections.abc import Callable

_KIB = 1024


def formatted(value: float, unit: str) -> str:
    """`value` as a reader writes it.

    Raises:
        KeyError: no panel has used this unit so far.
    """
    return _FORMATS[unit](value)


_LEAST = 1e-12
"""Nothing that is measured here is smaller, and far below it division loses its digits."""


def ticks(top: float, unit: str) -> list[float]:
    """Round numbers from 0 up to the first one that is not below `top`."""
    base = _KIB if unit in {"bytes", "Bps"} else 1000
    if top < _LEAST:
        return [0.0, 1.0]
    scale = base ** math.floor(math.log(top, base))
    ten = 10 ** math.floor(math.log10(top / scale))
    step = next(n * ten * scale for n in (0.25, 0.5, 1, 2, 2.5) if 4 * n * ten * scale >= top)
    return [step * n for n in range(math.ceil(top / step) + 1)]


def _number(value: float) -> str:
    # Never as 1e+03.
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 - two digits


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{_number(value * factor)} {name}"
    return f"{_number(value * 1e6)} µs"


def _size(value: float) -> str:
    for name in ("B", "KiB", "MiB", "GiB"):
        if value < _KIB:
            return f"{_number(value)} {name}"
        value /= _KIB
    return f"{_number(value)} TiB"


_FORMATS: dict[str, Callable[[float], str]] = {
    "none": _number,
    "ops": lambda value: f"{_number(value)}/s",
    "s": _seconds,
    "percentunit": lambda value: f"{_number(value * 100)} %",
    "bytes": _size,
    "Bps": lambda value: f"{_size(value)}/s",
}
