"""The shipped model plays what it played: latents of a few chunks, recorded at 5984b31 before the queue was redesigned.

On the machine that recorded them they came out bit for bit; other processors round otherwise.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from infer.fifo import EndlessStream, QueueOptions, StreamConfig
from infer.fifo.guard import GuardConfig
from infer.fifo.timing import StreamTiming
from infer.generate import generate
from infer.guidance import GuidanceConfig
from infer.samplers import SamplingConfig
from models.checkpoint import SHIPPED_MODEL
from models.text_to_audio import TextToAudio

RAIN, FLUTE, DRUM = "heavy rain with distant thunder", "a steady flute-like note at A4", "a drum loop at 120 bpm"
SMALL = QueueOptions(context_frames=8, chunk_frames=8, num_chunks=4, steps_per_shift=1)
CASES = {
    "default": (2, StreamConfig()),
    "cues": (9, StreamConfig(queue=SMALL)),
    "continued": (2, StreamConfig(queue=SMALL)),
    "ending": (99, StreamConfig(queue=SMALL, seconds=1.4, timing=StreamTiming(ending=True))),
    "guard": (
        8,
        StreamConfig(
            queue=SMALL,
            guard=GuardConfig(beginning_seconds=0.3, mean_zone=0.02, deviation_zone=0.8, average_seconds=0.5),
        ),
    ),
    "negative": (
        2,
        StreamConfig(
            queue=SMALL,
            sampling=SamplingConfig(sampler="ddim", eta=0.5),
            guidance=GuidanceConfig(scale=4.0, interval=(0.1, 0.9), negative_prompt=DRUM),
        ),
    ),
    "infinite-audio": (
        16,
        StreamConfig(method="infinite-audio", queue=SMALL, sampling=SamplingConfig(focus="last")),
    ),
}


@pytest.fixture(scope="module")
def model() -> TextToAudio:
    return TextToAudio.load(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).with_name("shipped_latents.npz")))


@pytest.mark.parametrize("name", CASES)
def test_streams(model: TextToAudio, recorded: dict[str, np.ndarray], name: str):
    num_chunks, config = CASES[name]
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(44_100) / 44_100).repeat(2, 1)
    stream = EndlessStream(model, RAIN, config, init_audio=tone if name == "continued" else None)
    if name == "cues":
        stream.cue(0.4, FLUTE, "bind")
        stream.cue(0.8, DRUM, "switch")
        stream.cue(1.1, RAIN, "glide", 0.5)
    chunks = []
    stream.on_latents = chunks.append
    while len(chunks) < num_chunks and next(stream, None) is not None:
        pass
    expected = torch.from_numpy(recorded[name])
    latents = torch.cat(chunks, dim=-1)[0, :, -expected.shape[-1] :]
    torch.testing.assert_close(latents, expected, atol=1e-3, rtol=0)


def test_clips(model: TextToAudio, recorded: dict[str, np.ndarray]):
    guidance = GuidanceConfig(scale=6.0, rescale=0.5)
    clips = generate(model, [RAIN, FLUTE], seconds=1.0, seeds=[0, 7], guidance=guidance, num_steps=4)
    torch.testing.assert_close(clips[..., ::50], torch.from_numpy(recorded["clips"]), atol=1e-3, rtol=0)
