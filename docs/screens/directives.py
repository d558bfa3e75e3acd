"""How a page shows a screen or the dashboard."""

from itertools import groupby
from typing import ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from docs.screens.drawing import draw
from docs.screens.gallery import Gallery


class _LiveDirective(SphinxDirective):
    """Shows something of the live host; the page is made anew by each build."""

    has_content = True
    gallery: ClassVar[Gallery]

    def caption(self) -> list[nodes.Node]:
        """What the page says of it."""
        self.env.note_reread()
        return self.parse_content_to_nodes()


class ScreenDirective(_LiveDirective):
    """What a command printed: `status`, `top` or `doctor`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by docutils for each use in a page."""
        name = self.arguments[0]
        if name not in self.gallery.screens:
            raise self.error(f"no screen {name!r}: {', '.join(self.gallery.screens)}")
        text = self.gallery.screens[name]
        block = nodes.literal_block(text, text, language="console", classes=["screen"])
        return [*self.caption(), block]


class DashboardDirective(_LiveDirective):
    """Every panel of the dashboard, under the headings of its rows."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils for each use in a page."""
        found = self.caption()
        for row, panels in groupby(self.gallery.panels, lambda panel: panel.row):
            found.append(nodes.rubric(row, row))
            drawn = "\n".join(map(draw, panels))
            html = f'<div class="dashboard">\n{drawn}\n</div>\n'
            found.append(nodes.raw(html, html, format="html"))
        return found
