"""A directory on tmpfs, as regions live on one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shm_dir() -> Iterator[Path]:
    """An empty directory under /dev/shm that anyone may enter."""
    path = Path(tempfile.mkdtemp(prefix="tp-test-", dir="/dev/shm"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
