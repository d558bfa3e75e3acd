"""A Sphinx extension: screens of a live host in the documentation, made anew by each build.

`builder-inited` starts a host, clients and a Prometheus of its own, keeps what they show, and
ends them all. Pages show it by two directives:

    ```{screen} status        what a command printed
    ```{dashboard}            the panels of the Grafana dashboard

Both may hold a sentence of what is shown; it is all that a reader of the repository sees.
"""

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from docs.screens.directives import DashboardDirective, ScreenDirective
from docs.screens.gallery import Gallery


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    gallery = Gallery()
    app.connect("builder-inited", lambda _: gallery.fill())
    # Directives are given no object of ours, only their class.
    app.add_directive("screen", type("Screen", (ScreenDirective,), {"gallery": gallery}))
    app.add_directive("dashboard", type("Dashboard", (DashboardDirective,), {"gallery": gallery}))
    app.add_css_file("screens.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
