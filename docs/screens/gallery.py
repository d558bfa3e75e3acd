"""All that a build shows of its live host, kept while it runs."""

import time

from docs.screens.dashboard import Panel, look
from docs.screens.live_host import LiveHost, live_host
from docs.screens.processes import ended_in_order
from docs.screens.prometheus import Prometheus, program, prometheus
from docs.screens.waiting import NotShown, wait_for

COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "status": (("status",), 0),
    "top": (("top", "--once"), 0),
    # What it finds depends on the machine of the build: warnings and errors are findings as well.
    "doctor": (("doctor",), 2),
}
"""Of each screen: the command, and the highest exit status that is worth showing."""
_PROCESSES = {"launcher", "media_driver", "driver", "supervisor", "gc"}
_SPAN_S = 6.0
"""A panel shows this long at least."""


class Gallery:
    """Screens and panels."""

    def __init__(self) -> None:
        self.screens: dict[str, str] = {}
        self.panels: list[Panel] = []

    def fill(self) -> None:
        """Start a host, look at it in every way, and end it.

        Raises:
            NotShown: a part of it is missing or does not work.
        """
        program()  # before anything is started in vain
        with (
            ended_in_order(),
            live_host() as host,
            # First of all: it takes five seconds to look at a new list of targets.
            prometheus(host.directory / "prometheus", host.targets) as server,
            host.at_work(),
        ):
            self.screens = {name: _screen(host, name) for name in COMMANDS}
            server.wait_scraped(_PROCESSES)
            self.panels = _panels(host, server)


def _screen(host: LiveHost, name: str) -> str:
    """The command as a reader types it, and what it printed."""
    arguments, highest = COMMANDS[name]
    done = wait_for(
        lambda: done if (done := host.ask(*arguments)).returncode <= highest else None,
        lambda: f"a healthy `tensorpool {name}`: {host.ask(*arguments)}",
    )
    if not done.stdout:
        raise NotShown(f"`tensorpool {name}` printed nothing: {done.stderr}")
    return f"$ tensorpool {' '.join(arguments)}\n{done.stdout}"


def _panels(host: LiveHost, server: Prometheus) -> list[Panel]:
    """Every panel with something in it: clients come and go until that is so."""
    start = time.time()

    def look_again() -> list[Panel]:
        host.be_visited()
        found = look(server, start, time.time())
        is_long_enough = found[0].span_s >= _SPAN_S
        return found if is_long_enough and all(panel.series for panel in found) else []

    def empty() -> str:
        found = look(server, start, time.time())
        return ", ".join(panel.title for panel in found if not panel.series)

    return wait_for(look_again, lambda: f"an answer to the dashboard's queries: {empty()}")
