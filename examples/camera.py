"""A camera that sees a moving bar: one producer, frames written in place.

python examples/camera.py [STREAM] [FRAMES]
"""

import sys
import time

import numpy as np

import tensorpool

stream = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
frames = int(sys.argv[2]) if len(sys.argv) > 2 else 300
RATE_HZ = 100

with tensorpool.connect() as pool, pool.producer(stream) as camera:
    for number in range(frames):
        with camera.claim((480, 640), np.uint16) as frame:
            frame.array[:] = 0
            frame.array[:, number % 640] = 1000
        time.sleep(1 / RATE_HZ)
    print(f"{camera.published} frames published")
