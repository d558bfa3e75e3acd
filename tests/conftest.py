"""What holds for every test: markers by folder, a named clause, nothing left behind."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.leftovers"]

HERE = Path(__file__).parent
KINDS = frozenset({"unit", "integration", "conformance", "chaos", "fuzz"})

# No time is asserted, neither by hypothesis: machines are shared and slow at times.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    nameless = []
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        kind = item.path.relative_to(HERE).parts[0]
        if kind in KINDS:
            item.add_marker(kind)
        if kind == "conformance" and item.get_closest_marker("clause") is None:
            nameless.append(item.nodeid)
    if nameless:
        raise pytest.UsageError(
            "a conformance test names what it proves; add @pytest.mark.clause('Driver §…-1') to "
            + ", ".join(nameless)
        )
