"""What is rendered for the media driver, judged by Aeron's own media driver."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpool.config import to_settings
from tests.unit.config.documents import accepted

START = (
    "import pyaeron, sys; pyaeron.MediaDriver(dir=sys.argv[1], threading=sys.argv[2], "
    "dir_delete_on_start=True, dir_delete_on_shutdown=True).close()"
)


def start(tmp_shm: Path, text: str, **overrides: str) -> subprocess.CompletedProcess[str]:
    """A media driver run on the settings of `text`, printing the configuration it understood."""
    media_driver = to_settings(accepted(text).config).media_driver
    environ = {
        **os.environ,
        **dict(media_driver.environment),
        "AERON_PRINT_CONFIGURATION": "true",
        **overrides,
    }
    return subprocess.run(
        [sys.executable, "-c", START, str(tmp_shm / "aeron"), media_driver.threading],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_aeron_understands_every_setting(tmp_shm: Path) -> None:
    run = start(
        tmp_shm,
        '[media_driver]\nthreading = "shared_network"\ntether_subscriptions = true\n'
        "untethered_window_limit_timeout_ms = 201\nuntethered_resting_timeout_ms = 102\n"
        "timer_interval_ms = 51\nclient_liveness_timeout_ms = 2001\n"
        "publication_unblock_timeout_ms = 2502\nterm_buffer_sparse_file = false\n"
        "max_counters = 8193\n",
    )
    assert run.returncode == 0, run.stderr
    printed = dict(line.strip().split("=", 1) for line in run.stdout.splitlines() if "=" in line)
    assert printed["tether_subscriptions"] == "1"
    assert printed["term_buffer_sparse_file"] == "0"
    assert printed["untethered_window_limit_timeout_ns"] == "201000000"
    assert printed["untethered_resting_timeout_ns"] == "102000000"
    assert printed["timer_interval_ns"] == "51000000"
    assert printed["client_liveness_timeout_ns"] == "2001000000"
    assert printed["publication_unblock_timeout_ns"] == "2502000000"
    assert printed["counters_values_buffer_length"] == str(8193 * 128)


@pytest.mark.parametrize(
    ("strategy", "function", "arguments"),
    [("backoff", "_backoff_", "10-20-1us-4ms"), ("busy_spin", "_spinning_", "(nil)")],
)
def test_how_its_threads_wait(tmp_shm: Path, strategy: str, function: str, arguments: str) -> None:
    run = start(tmp_shm, f'[launcher]\nidle_strategy = "{strategy}"\n')
    assert run.returncode == 0, run.stderr
    printed = dict(line.strip().split("=", 1) for line in run.stdout.splitlines() if "=" in line)
    for agent in ("shared", "conductor"):
        assert function in printed[f"{agent}_idle_strategy_func"]
        assert printed[f"{agent}_idle_strategy_init_args"].endswith(arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AERON_PUBLICATION_UNBLOCK_TIMEOUT", "2000ms"),
        ("AERON_CLIENT_LIVENESS_TIMEOUT", "50ms"),
        ("AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT", "50ms"),
        ("AERON_UNTETHERED_LINGER_TIMEOUT", "50ms"),
        ("AERON_UNTETHERED_RESTING_TIMEOUT", "50ms"),
    ],
)
def test_our_rules_are_aerons(tmp_shm: Path, name: str, value: str) -> None:
    # The values that test_aerons_own_conditions refuses: Aeron refuses them as well.
    run = start(tmp_shm, "", **{name: value})
    assert run.returncode != 0
    assert "Invalid argument" in run.stderr
