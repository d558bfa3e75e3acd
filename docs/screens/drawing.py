"""A panel of the dashboard as SVG. Colours of text and axes are the page's own."""

from html import escape

from docs.screens.dashboard import Panel, Point, Series
from docs.screens.prometheus import SCRAPE_S
from docs.screens.units import formatted, ticks

WIDTH = 340
_LEFT, _RIGHT, _TOP, _PLOT = 62, 10, 30, 110
_LINE = 15
_SMALL, _CAPITAL = 6.4, 8.4
"""Widths of a legend's letters, in pixels: those of a wide font, so that none is covered."""
_COLOURS = (
    *("#3b82c4", "#e07b39", "#4aa564", "#c0504d", "#8e6bbf"),
    *("#b58900", "#2aa198", "#d16ba5", "#7f8c8d", "#6c8e2f"),
)


def draw(panel: Panel) -> str:
    """The whole `svg` element."""
    body, height = _stat(panel) if panel.kind == "stat" else _plot(panel)
    title = escape(panel.title)
    return (
        f'<svg class="panel" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}" data-unit="{panel.unit}">'
        f'<text class="panel-title" x="8" y="18">{title}</text>{body}</svg>'
    )


def _stat(panel: Panel) -> tuple[str, int]:
    """The last value of each series, and what it is of."""
    parts = []
    for number, series in enumerate(panel.series):
        y = _TOP + 40 * (number + 1)
        _, last = series.points[-1]
        parts.append(
            f'<text class="panel-value" x="{WIDTH / 2}" y="{y - 12}" text-anchor="middle">'
            f"{escape(formatted(last, panel.unit))}</text>"
            f'<text class="panel-legend" x="{WIDTH / 2}" y="{y + 4}" text-anchor="middle">'
            f"{escape(series.legend)}</text>"
        )
    return "".join(parts), _TOP + 40 * max(len(panel.series), 1) + 14


def _plot(panel: Panel) -> tuple[str, int]:
    """Axes, lines, and a legend below."""
    top = max((value for one in panel.series for _, value in one.points), default=0.0)
    marks = ticks(top, panel.unit)
    width, bottom = WIDTH - _LEFT - _RIGHT, _TOP + _PLOT

    def place(point: Point) -> tuple[float, float]:
        at, value = point
        return _LEFT + width * at / panel.span_s, bottom - _PLOT * value / marks[-1]

    parts = []
    for mark in marks:
        _, y = place((0, mark))
        parts.append(
            f'<path class="panel-grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="panel-axis" x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{escape(formatted(mark, panel.unit))}</text>"
        )
    for mark in ticks(panel.span_s, "s"):
        if mark <= panel.span_s:
            x, _ = place((mark, 0))
            parts.append(
                f'<text class="panel-axis" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">'
                f"{escape(formatted(mark, 's'))}</text>"
            )
    for number, series in enumerate(panel.series):
        parts += [_line([*map(place, run)], _colour(number)) for run in _runs(series.points)]
    legend, height = _legend(panel.series, bottom + 34)
    return "".join(parts) + legend, height


def _runs(points: tuple[Point, ...]) -> list[list[Point]]:
    """Points with no sample missing between them: nothing is drawn where nothing was known."""
    runs: list[list[Point]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] < 1.5 * SCRAPE_S:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _line(places: list[tuple[float, float]], colour: str) -> str:
    if len(places) == 1:
        ((x, y),) = places
        return f'<circle class="panel-series" cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="panel-series" points="{points}" stroke="{colour}"/>'


def _legend(all_series: tuple[Series, ...], y: int) -> tuple[str, int]:
    """Side by side as far as they fit, and the height of the panel with them."""
    parts, x = [], 8.0
    for number, series in enumerate(all_series):
        width = 16 + sum(_CAPITAL if letter.isupper() else _SMALL for letter in series.legend)
        if x > 8 and x + width > WIDTH:  # noqa: PLR2004 - the margin
            x, y = 8.0, y + _LINE
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 5}" width="10" height="3" fill="{_colour(number)}"/>'
            f'<text class="panel-legend" x="{x + 14:.0f}" y="{y}">{escape(series.legend)}</text>'
        )
        x += width + 8
    return "".join(parts), y + 10


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
