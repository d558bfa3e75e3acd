"""Watches a camera: where is the bar? Any number of these may run at once.

python examples/watch.py [STREAM] [FRAMES]
"""

import sys

import tensorpool

stream = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
frames = int(sys.argv[2]) if len(sys.argv) > 2 else 100

with tensorpool.connect() as pool, pool.consumer(stream) as view:
    print(f"watching stream {view.stream_id}", flush=True)
    for frame in view:
        column = int(frame.array[0].argmax())
        if frame.valid:  # what was read is whole: the producer has not come round meanwhile
            print(f"seq {frame.seq}: bar at column {column}")
        if view.received >= frames:
            break
    print(f"{view.received} frames, lost {view.drops_gap + view.drops_late}")
