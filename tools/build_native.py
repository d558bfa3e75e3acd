"""Builds `tensorpool._hot` from `native/*.c`: a hook of hatchling, and a command.

Optional by design: where there is no C compiler, no Python or numpy headers, or the compiler
fails, it says so in one line and the package installs without (`tensorpool.client.slots`).

As a command, `python tools/build_native.py` builds in place, and fails if it cannot.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a command, without build tools
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tensorpool" / f"_hot{sysconfig.get_config_var('EXT_SUFFIX')}"
FLAGS = ("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-shared")


class CannotBuildError(Exception):
    """Why there will be no native module."""


def compiler() -> list[str]:
    """The C compiler: $CC, the one that built this Python, or what the PATH has."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    raise CannotBuildError("no C compiler (cc, gcc, clang or $CC)")


def includes() -> list[str]:
    """The folders of Python's and numpy's headers."""
    try:
        import numpy as np  # noqa: PLC0415 - its absence is one of the answers
    except ImportError:
        raise CannotBuildError("numpy is not there to build against") from None
    folders = [sysconfig.get_paths()["include"], np.get_include()]
    for folder, header in zip(folders, ("Python.h", "numpy/arrayobject.h"), strict=True):
        if not Path(folder, header).is_file():
            raise CannotBuildError(f"{header} is missing in {folder}")
    return folders


def build() -> Path:
    """Compile in place, whole or not at all; the extension's path.

    Raises:
        CannotBuildError: it cannot be built here.
    """
    if sys.implementation.name != "cpython":
        raise CannotBuildError(f"{sys.implementation.name} is not CPython")
    sources = sorted(str(path) for path in (ROOT / "native").glob("*.c"))
    made = TARGET.with_name(f".{TARGET.name}.{os.getpid()}")
    command = [*compiler(), *FLAGS, *(f"-I{folder}" for folder in includes()), *sources]
    command += ["-o", str(made), *shlex.split(os.environ.get("LDFLAGS", ""))]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if run.returncode:
            errors = [line for line in run.stderr.splitlines() if "error" in line]
            raise CannotBuildError(f"{command[0]}: {(errors or [run.stderr.strip()])[0]}")
        made.replace(TARGET)
    except OSError as error:
        raise CannotBuildError(str(error)) from error
    finally:
        made.unlink(missing_ok=True)
    return TARGET


class NativeBuildHook(BuildHookInterface):  # type: ignore[misc, valid-type]
    """Builds before a wheel, editable or not, is put together; never makes it fail."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called by hatchling."""
        try:
            target = build()
        except CannotBuildError as reason:
            TARGET.unlink(missing_ok=True)  # an older one would not fit these sources
            self.app.display_warning(f"tensorpool: pure Python, without its C module: {reason}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(target)] = f"tensorpool/{target.name}"


if __name__ == "__main__":
    try:
        print(build())  # noqa: T201 - what the command says
    except CannotBuildError as reason:
        sys.exit(f"build_native: {reason}")
