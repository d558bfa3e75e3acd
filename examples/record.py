"""Records frames into one .npy file, which `numpy.load` maps back.

python examples/record.py FILE [STREAM] [FRAMES]
"""

import sys

import numpy as np

import tensorpool

path = sys.argv[1]
stream = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
frames = int(sys.argv[3]) if len(sys.argv) > 3 else 100

with tensorpool.connect() as pool, pool.consumer(stream) as view:
    print(f"recording stream {view.stream_id}", flush=True)
    file, recorded, torn = None, 0, 0
    for frame in view:
        if file is None:
            file = np.lib.format.open_memmap(
                path, mode="w+", dtype=frame.dtype, shape=(frames, *frame.shape)
            )
        if frame.shape != file.shape[1:] or frame.dtype != file.dtype:
            sys.exit(f"{frame}: the recording is of {file.shape[1:]} {file.dtype}")
        file[recorded] = frame.array  # straight from shared memory to the file
        if frame.valid:
            recorded += 1
        else:
            torn += 1  # the producer came round meanwhile: the next frame takes the place
        if recorded == frames:
            break
    file.flush()
    print(f"{recorded} frames, lost {view.drops_gap + view.drops_late + torn}")
