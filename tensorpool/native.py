"""Whether the per-frame path runs in C (`tensorpool._hot`) or in pure Python.

The module is built with the package where a C compiler is at hand, and optional: without it
`tensorpool.client.slots` does the same, slower. TENSORPOOL_PURE_PYTHON=1 chooses the latter.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

PURE_PYTHON_VARIABLE = "TENSORPOOL_PURE_PYTHON"


def load_hot() -> tuple[Any, str]:
    """The C module, or None; and in words why it is None."""
    if os.environ.get(PURE_PYTHON_VARIABLE, "") not in {"", "0"}:
        return None, f"{PURE_PYTHON_VARIABLE} is set"
    try:
        return importlib.import_module("tensorpool._hot"), ""
    except ImportError as error:
        return None, f"{error}; install the package again where a C compiler is (cc, gcc or clang)"
