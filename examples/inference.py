"""A torch worker: frames in by zero copy, answers out on another stream.

pip install 'tensorpool[torch]'
python examples/inference.py [STREAM] [ANSWERS] [FRAMES]
"""

import sys

import torch

import tensorpool

stream = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
answers = int(sys.argv[2]) if len(sys.argv) > 2 else 20000
frames = int(sys.argv[3]) if len(sys.argv) > 3 else 100


class Brightest(torch.nn.Module):
    """Stands for your model: the brightest column of the picture, and how bright it is."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Position and mean of the brightest column of a picture of rows and columns."""
        means = image.to(torch.float32).mean(dim=0)
        return torch.stack((means.argmax().to(torch.float32), means.max()))


model = Brightest().eval()
with (
    tensorpool.connect() as pool,
    pool.consumer(stream) as view,
    pool.producer(answers) as out,
    torch.inference_mode(),
):
    out.metadata(name="brightest", summary="2 float32: column and its mean brightness")
    print(f"inferring stream {view.stream_id} to {out.stream_id}", flush=True)
    for frame in view:
        answer = model(torch.from_dlpack(frame))
        if not frame.valid:  # the picture was overwritten while the model looked at it
            continue
        out.publish(answer, timestamp_ns=frame.timestamp_ns, trace_id=frame.trace_id or frame.seq)
        if out.published == frames:
            break
    print(f"{out.published} answers, lost {view.drops_gap + view.drops_late}")
