"""The picture of a soak: one panel a measure, one curve a subject, as SVG. No library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _PANEL_WIDTH, _PANEL_HEIGHT = 960, 300, 150
_LEFT, _TOP, _GAP_X, _GAP_Y = 44, 40, 128, 56
_COLUMNS = 2
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#475569")
_INK, _FAINT = "#0f172a", "#cbd5e1"
_POINTS = 360
"""More than a curve's pixels show nothing."""
_LABEL_STEP = 13
_LEAST = 1e-9
"""What is smaller is drawn as nothing."""
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One subject's values over time."""

    name: str
    times_s: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one measure."""

    title: str
    curves: Sequence[Curve]


def draw(panels: Sequence[Panel], *, title: str, warm_up_s: float) -> str:
    """The SVG document; what lies before `warm_up_s` seconds is shaded."""
    rows = -(-len(panels) // _COLUMNS)
    height = _TOP + rows * (_PANEL_HEIGHT + _GAP_Y)
    last_s = max((c.times_s[-1] for p in panels for c in p.curves if c.times_s), default=0.0)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="11" role="img">'
    )
    parts = [
        head,
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    for index, panel in enumerate(panels):
        x = _LEFT + index % _COLUMNS * (_PANEL_WIDTH + _GAP_X + _LEFT)
        y = _TOP + index // _COLUMNS * (_PANEL_HEIGHT + _GAP_Y)
        parts += _panel(panel, x, y, max(last_s, 1.0), warm_up_s)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x: float, y: float, last_s: float, warm_up_s: float) -> list[str]:
    top = round_up(max((max(c.values) for c in panel.curves if c.values), default=0.0))
    bottom_y = y + _PANEL_HEIGHT
    shaded = min(warm_up_s / last_s, 1) * _PANEL_WIDTH
    parts = [
        f'<text x="{x}" y="{y - 10}" font-size="13" fill="{_INK}">{escape(panel.title)}</text>',
        f'<rect x="{x}" y="{y}" width="{shaded:.1f}" height="{_PANEL_HEIGHT}" fill="#f1f5f9"/>',
    ]
    for part in (0.0, 0.5, 1.0):
        line_y = bottom_y - part * _PANEL_HEIGHT
        parts.append(
            f'<line x1="{x}" y1="{line_y}" x2="{x + _PANEL_WIDTH}" y2="{line_y}" '
            f'stroke="{_FAINT}"/>'
            f'<text x="{x - 5}" y="{line_y + 4}" text-anchor="end" fill="{_INK}">'
            f"{top * part:g}</text>"
        )
        parts.append(
            f'<text x="{x + part * _PANEL_WIDTH}" y="{bottom_y + 16}" text-anchor="middle" '
            f'fill="{_INK}">{last_s / _MINUTE_S * part:.3g} min</text>'
        )
    ends = []
    for curve, colour in zip(panel.curves, _COLOURS * len(panel.curves), strict=False):
        if not curve.values:
            continue
        points = [
            (x + at / last_s * _PANEL_WIDTH, bottom_y - value / top * _PANEL_HEIGHT)
            for at, value in thinned(list(zip(curve.times_s, curve.values, strict=True)))
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
        )
        ends.append((points[-1][1], curve.name, colour))
    for label_y, name, colour in spread_labels(ends, bottom_y):
        parts.append(
            f'<text x="{x + _PANEL_WIDTH + 6}" y="{label_y + 4:.1f}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    return parts


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some hundred points; of each stretch the highest, so that no peak is lost."""
    step = max(1, -(-len(points) // _POINTS))
    return [
        max(points[first : first + step], key=lambda point: point[1])
        for first in range(0, len(points), step)
    ]


def spread_labels(
    ends: list[tuple[float, str, str]], bottom_y: float
) -> list[tuple[float, str, str]]:
    """The names beside the ends of their curves, moved apart so that none covers another."""
    placed: list[tuple[float, str, str]] = []
    limit = bottom_y
    for y, name, colour in sorted(ends, reverse=True):
        y_here = min(y, limit)
        limit = y_here - _LABEL_STEP
        placed.append((y_here, name, colour))
    return placed


def round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten: where an axis ends."""
    if value < _LEAST:
        return 1.0
    power = 1.0
    while power * 10 < value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value)
