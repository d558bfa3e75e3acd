"""The Python blocks of README and docs/client.md run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.host import RunningHost

ROOT = Path(__file__).parents[3]
BLOCKS = [
    (name, number, block)
    for name in ("README.md", "docs/client.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize(
    ("name", "number", "block"), BLOCKS, ids=[f"{name}-{number}" for name, number, _ in BLOCKS]
)
def test_a_block_runs(calm_host: RunningHost, name: str, number: int, block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        env=calm_host.environment | {"TENSORPOOL_CONFIG": str(calm_host.config)},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
