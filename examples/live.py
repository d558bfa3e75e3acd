"""A live picture in the terminal, ten times a second at most; Ctrl-C ends it.

python examples/live.py [STREAM] [PICTURES]
"""

import itertools
import sys

import numpy as np

import tensorpool

stream = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
pictures = int(sys.argv[2]) if len(sys.argv) > 2 else None
SHADES = np.array(list(" .:-=+*#%@"))
ROWS, COLUMNS = 24, 64
HOME = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""


def drawn(image: np.ndarray) -> str:
    """The image as characters, the brightest pixel of each cell."""
    rows = np.array_split(image, ROWS)
    cells = [[cell.max() for cell in np.array_split(row, COLUMNS, axis=1)] for row in rows]
    bright = np.asarray(cells, np.float64)
    scaled = bright / max(bright.max(), 1) * (len(SHADES) - 1)
    return "\n".join("".join(line) for line in SHADES[scaled.astype(int)])


with tensorpool.connect() as pool, pool.consumer(stream, max_rate_hz=10) as view:
    print(f"showing stream {view.stream_id}", flush=True)
    for number in itertools.count(1):
        frame = view.latest(timeout_s=None)
        image = frame.try_copy()
        if image is not None and image.ndim == 2:
            print(f"{HOME}{drawn(image)}\nframe {frame.seq}, {view.skipped} skipped", flush=True)
        if number == pictures:
            break
