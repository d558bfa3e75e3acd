"""One soak from the start of its host to what is left after its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.host import bench_host
from bench.soak.clients import Tally
from bench.soak.crew import Crew
from bench.soak.plan import Plan, host_config
from bench.soak.result import Result
from bench.soak.sampler import (
    CLIENTS,
    LEASES,
    PRIVATE,
    Sampler,
    Series,
    active_leases,
    count_epochs,
)
from tensorpool.config import load, to_settings
from tensorpool.config.space import region_files_bytes
from tensorpool.settings import HostSettings

_LOOK_S = 0.2
_NOTE_S = 60.0
_SETTLE_S = 30.0
_MINUTE_S = 60.0

type Interrupted = Callable[[], str | None]


def soak(plan: Plan, interrupted: Interrupted, note: Callable[[Result], None]) -> Result:
    """Run it, and leave nothing behind.

    Args:
        plan: its size and length.
        interrupted: asked often; names the signal that ends the soak early, None to go on.
        note: called about once a minute with the result so far.

    Raises:
        subprocess.CalledProcessError: the host does not become ready.
        ConfigError: the plan makes no valid configuration.
    """
    result: Result | None = None
    try:
        with bench_host(configure=lambda root: host_config(root, plan.streams)) as host:
            settings = to_settings(load(host.config, {}).config)
            result = Result(plan, Sampler(settings), root=str(Path(host.config).parent))
            with Crew(plan, host.config) as crew:
                _watch(result, crew, interrupted, note)
                result.interrupted_by = interrupted()
                result.sampler.sample(crew.steady_pids, crew.steady_in_use)
                result.totals = result.sampler.scrape()
                crew.stop()
                result.tally = crew.total()
                result.problems += crew.problems + _restarted(result.sampler)
            result.problems += _unsettled(settings, plan)
    except RuntimeError as error:
        # The host says at its end what it left behind, or that it ended badly.
        if result is None:
            raise
        result.problems.append(str(error))
    return result


def _watch(
    result: Result, crew: Crew, interrupted: Interrupted, note: Callable[[Result], None]
) -> None:
    plan = result.plan
    told: set[str] = set()
    started = time.monotonic()
    end = started + (plan.warm_up_minutes + plan.minutes) * _MINUTE_S
    next_sample = next_note = started
    while (now := time.monotonic()) < end and interrupted() is None:
        crew.step()
        if now >= next_sample:
            next_sample = max(next_sample + plan.sample_s, now)
            result.sampler.sample(crew.steady_pids, crew.steady_in_use)
            result.loads.append(os.getloadavg()[0])
            for line in _restarted(result.sampler):
                if line not in told:
                    told.add(line)
                    print(f"soak: {line}", flush=True)
            result.tally = crew.look()
            result.faults = dict(crew.faults)
            if now >= next_note:
                next_note = now + _NOTE_S
                note(result)
        time.sleep(_LOOK_S)


def _restarted(sampler: Sampler) -> list[str]:
    """Processes of the host that ended though nobody ended them, in words."""
    return [
        f"{name} was started again {count} times, the last time because of: {why}"
        for name, (count, why) in sampler.restarts.items()
    ]


def _unsettled(settings: HostSettings, plan: Plan) -> list[str]:
    """What does not come to rest after the last client has left, in words."""
    profile = settings.profile("soak")
    strides = [pool.stride_bytes for pool in profile.pools]
    epoch_bytes = region_files_bytes(profile.header_nslots, strides, page_bytes=1)
    kept = plan.streams * (settings.epochs_at_once(epoch_bytes) - 1)  # none is in the making
    deadline = time.monotonic() + _SETTLE_S
    while True:
        leases = active_leases(settings)
        epochs = count_epochs(settings.shm.namespace_dir)
        wrong = []
        if leases:
            wrong.append(f"{leases} leases are active after every client has left")
        if epochs > kept:
            wrong.append(f"{epochs} epoch directories are left, {kept} are to be kept at most")
        if not wrong or time.monotonic() >= deadline:
            return wrong
        time.sleep(_LOOK_S)


def state_line(result: Result) -> str:
    """How far a soak is, in a line."""
    plan, sample, tally = result.plan, result.sampler.samples[-1], result.tally

    def value(series: Series) -> str:
        found = sample.get(series)
        return "?" if found is None else f"{found:.1f}"

    return (
        f"{result.lasted_s / _MINUTE_S:5.1f} of {plan.warm_up_minutes:g} + {plan.minutes:g} min: "
        f"{value(Series(LEASES, 'registry')).removesuffix('.0')} leases, private MiB: driver "
        f"{value(Series(PRIVATE, 'driver'))}, clients {value(Series(PRIVATE, CLIENTS))}; "
        f"{_done(tally)}; load {result.loads[-1]:.1f}"
    )


def _done(tally: Tally) -> str:
    return (
        f"{tally.attaches:,} attaches, {tally.checked:,} frames checked, {tally.error_count} wrong"
    )
