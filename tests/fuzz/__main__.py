"""`python -m tests.fuzz TARGET [--seconds N]`: fuzz one target, guided by coverage.

With atheris installed (tests/fuzz/requirements.txt) libFuzzer mutates what reached new code;
without it seeded mutants of the corpus are tried, and the report says so. Exit status 1 and
the input's path if something was found: add that input to `corpus/TARGET` with its repair.
Seconds are those of a processor: how long it takes depends on who else is there, what is tried
does not.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

try:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    atheris = None

import psutil

_ROUND = 1000
_HANG_S = 20
_MAX_LEN = 8192
_POLL_S = 0.5
_INTERRUPTED = 72
"""With it libFuzzer ends that was told to."""


def main() -> int:
    """Run the target named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"), help="found inputs")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if atheris is None:
        from tests.fuzz.corpus import corpus_of  # noqa: PLC0415
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415
    else:
        # What is imported here reports its branches; so nothing of ours may be imported before.
        with atheris.instrument_imports(include=["tensorpool"]):
            from tests.fuzz.corpus import corpus_of  # noqa: PLC0415
            from tests.fuzz.targets import TARGETS  # noqa: PLC0415
    if options.target not in TARGETS:
        parser.error(f"no target {options.target}; there are {', '.join(TARGETS)}")
    found = options.work / options.target
    found.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix="tp-fuzz-", dir="/dev/shm"))
    try:
        with TARGETS[options.target].open(scratch) as check:
            corpus = corpus_of(options.target)
            if atheris is None:
                return _seeded(check, corpus, options, found)
            return _guided(check, corpus, options, found, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _guided(check: Any, corpus: list[bytes], options: Any, found: Path, scratch: Path) -> int:
    for number, data in enumerate(corpus):
        (found / f"seed-{number}").write_bytes(data)
    arguments = [
        sys.argv[0],
        f"-seed={options.seed}",
        f"-timeout={_HANG_S}",
        f"-max_len={_MAX_LEN}",
        f"-artifact_prefix={found.parent}/{options.target}-",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
        str(found),
    ]
    child = os.fork()  # libFuzzer ends its process by itself, past every finally
    if child == 0:
        atheris.Setup(arguments, check)
        atheris.Fuzz()
        os._exit(0)
    process = psutil.Process(child)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        times = process.cpu_times()
        if times.user + times.system >= options.seconds:
            os.kill(child, signal.SIGTERM)  # it prints its figures first
            ended = os.waitpid(child, 0)
            break
        time.sleep(_POLL_S)
    status = os.waitstatus_to_exitcode(ended[1])
    return 0 if status == _INTERRUPTED else status


def _seeded(check: Any, corpus: list[bytes], options: Any, found: Path) -> int:
    from tests.fuzz.mutation import mutants  # noqa: PLC0415

    print("atheris is not installed: seeded mutants instead, not guided by coverage")  # noqa: T201
    deadline, done = time.process_time() + options.seconds, 0
    while time.process_time() < deadline:
        for data in mutants(corpus, _ROUND, options.seed + done):
            try:
                check(data)
            except Exception:  # noqa: BLE001 - whatever it is, it was found
                path = found.parent / f"{options.target}-crash-{options.seed}-{done}"
                path.write_bytes(data)
                traceback.print_exc()
                print(f"found: {path}")  # noqa: T201
                return 1
            done += 1
            if time.process_time() >= deadline:
                break
    print(f"{options.target}: {done} executions, nothing found")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
