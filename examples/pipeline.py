"""A pipeline of two stages; a trace id follows each picture from the source to the end.

python examples/pipeline.py smooth [FRAMES]     first stage: averages neighbours
python examples/pipeline.py threshold [FRAMES]  second stage: what is bright
python examples/pipeline.py show [FRAMES]       the end: how long each picture took
python examples/pipeline.py source [FRAMES]     the source; start it last

Each is a process of its own; any of them may be restarted at any time.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

import tensorpool

RAW, SMOOTH, BRIGHT = 20001, 20002, 20003
RATE_HZ = 100


def source(pool: tensorpool.Pool, frames: int) -> None:
    """Pictures of noise with a square, each with a trace id."""
    dice = np.random.default_rng(1)
    with pool.producer(RAW) as camera:
        for number in range(frames):
            with camera.claim((64, 64), np.float32, trace_id=1000 + number) as frame:
                frame.array[:] = dice.random((64, 64), np.float32)
                frame.array[16:32, 16:32] += 4
            time.sleep(1 / RATE_HZ)


def stage(
    pool: tensorpool.Pool,
    frames: int,
    inlet: int,
    outlet: int,
    work: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Read, work, write: the capture time and the trace id go on with the picture."""
    with pool.consumer(inlet) as view, pool.producer(outlet) as out:
        print(f"stage from {inlet} to {outlet}", flush=True)
        for frame in view:
            try:
                with frame.checked() as image:
                    result = work(image)
            except tensorpool.StaleFrame:
                continue  # too slow for this one
            out.publish(result, timestamp_ns=frame.timestamp_ns, trace_id=frame.trace_id)
            if out.published == frames:
                break


def smooth(image: np.ndarray) -> np.ndarray:
    """Each pixel with its four neighbours."""
    near = [np.roll(image, shift, axis) for shift in (-1, 1) for axis in (0, 1)]
    return (image + sum(near)) / 5


def threshold(image: np.ndarray) -> np.ndarray:
    """Where it is bright."""
    return image > 2


def show(pool: tensorpool.Pool, frames: int) -> None:
    """Trace id, bright pixels, and the time since the picture was taken."""
    with pool.consumer(BRIGHT) as view:
        print(f"showing {BRIGHT}", flush=True)
        for frame in view:
            mask = frame.try_copy()
            if mask is not None:
                age_ms = (time.monotonic_ns() - frame.timestamp_ns) / 1e6
                print(f"trace {frame.trace_id}: {mask.sum()} bright pixels, {age_ms:.2f} ms")
            if view.received == frames:
                break


role = sys.argv[1] if len(sys.argv) > 1 else "show"
frames = int(sys.argv[2]) if len(sys.argv) > 2 else 100
with tensorpool.connect() as pool:
    if role == "source":
        source(pool, frames)
    elif role == "smooth":
        stage(pool, frames, RAW, SMOOTH, smooth)
    elif role == "threshold":
        stage(pool, frames, SMOOTH, BRIGHT, threshold)
    else:
        show(pool, frames)
