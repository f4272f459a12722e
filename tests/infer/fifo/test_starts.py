"""A stream that continues a sound: the sound itself first, no seam in latents or samples, then what follows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infer.fifo import EndlessStream, FifoConfig, StreamConfig
from infer.fifo.starts import FADE_SECONDS, ContinuedDecoding, open_with, repeat_first
from infer.guidance import GuidanceConfig
from models.text_to_audio import TextToAudio

CONFIG = StreamConfig(
    fifo=FifoConfig(context=8, chunk=4, num_chunks=4, micro_steps=1), guidance=GuidanceConfig(scale=2.0)
)


@pytest.fixture
def sound() -> Tensor:
    """50 frames and a bit, (2, samples)."""
    time = torch.arange(50 * 1024 + 300) / 44_100
    return 0.5 * torch.stack((torch.sin(2000 * time), torch.cos(3000 * time)))


def test_latents_are_those_of_the_sound_and_its_mirror_image(tiny_model: TextToAudio, sound: Tensor):
    vae = tiny_model.vae
    for context in (0, 20, 45, 99):
        opening = open_with(vae, sound, context)
        assert torch.equal(opening.audio, sound[:, 300:])
        num_frames = opening.latents.shape[-1]
        assert min(context, 50) <= num_frames <= max(context, 30)
        mirrored = torch.cat((opening.audio, opening.audio.flip(-1)[:, : 30 * 1024]), dim=-1)
        assert torch.allclose(opening.latents, vae.encode(mirrored[None])[..., 50 - num_frames : 50], atol=1e-5)
    for wrong in (sound[:, :500], sound[:1], sound[None]):
        with pytest.raises(ValueError, match=r"must be \(2, at least 1024 samples\), got"):
            open_with(vae, wrong, 8)


@pytest.mark.parametrize("is_heard", [True, False])
def test_the_joint_has_no_seam(tiny_model: TextToAudio, sound: Tensor, is_heard: bool):
    """Behind the sound comes exactly what decoding everything at once would give there."""
    vae = tiny_model.vae
    opening = open_with(vae, sound, 50)
    following = 0.3 * torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(0))
    decoding = ContinuedDecoding(vae, opening, is_heard)
    got = torch.cat([*(decoding.push(piece) for piece in following.split(4, dim=-1)), decoding.finish()], dim=-1)
    whole = vae.decode(torch.cat((opening.latents, following), dim=-1))[0]
    length = opening.audio.shape[1]
    if not is_heard:
        assert torch.allclose(got, whole[:, length:], atol=1e-5)
        return
    fade = round(FADE_SECONDS * 44_100)
    assert torch.equal(got[:, : length - fade], opening.audio[:, : length - fade])
    assert torch.allclose(got[:, length:], whole[:, length:], atol=1e-5)
    weight = (torch.arange(fade) + 0.5) / fade
    mixed = torch.lerp(opening.audio[:, length - fade :], whole[:, length - fade : length], weight)
    assert torch.allclose(got[:, length - fade : length], mixed, atol=1e-5)


def test_the_stream_continues_it(tiny_model: TextToAudio, sound: Tensor):
    opening = open_with(tiny_model.vae, sound, 8)
    length = opening.audio.shape[1]
    heard = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound)
    seen = []
    network = heard._steering.network

    def recorder(latents: Tensor, t: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(latents)
        return network(latents, t, context, mask)

    heard._steering.network = recorder
    audio = heard.read(2.0)
    assert torch.equal(seen[0][:1, :, :8], opening.latents[..., -8:])
    after = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound, init_in_output=False).read(0.5)
    assert torch.allclose(audio[:, length : length + 22_050], after, atol=1e-5)
    assert torch.equal(audio[:, :40_000], opening.audio[:, :40_000])
    fresh = EndlessStream(tiny_model, "rain", CONFIG).read(0.5)
    assert not torch.allclose(after, fresh, atol=1e-3)


def test_times_count_from_the_start_of_the_output(tiny_model: TextToAudio, sound: Tensor):
    stream = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound)
    assert stream.cue(2.0, "wind").begins_seconds == pytest.approx(2.0, abs=0.012)
    assert stream.cue(0.2, "wind").begins_seconds == pytest.approx(50 * 1024 / 44_100)
    whole = EndlessStream(tiny_model, "rain", replace(CONFIG, seconds=1.7), init_audio=sound)
    assert sum(piece.shape[1] for piece in whole) == 74_970


def test_what_cannot_be_continued(tiny_model: TextToAudio, sound: Tensor):
    for config, message in (
        (replace(CONFIG, seconds=1.0), "is 1.2 s long: ask for more than 1 s"),
        (replace(CONFIG, start="clip"), "must start from noise"),
        (replace(CONFIG, method="concatenate"), "have a context"),
    ):
        with pytest.raises(ValueError, match=message):
            EndlessStream(tiny_model, "rain", config, init_audio=sound)


def test_a_short_clip_is_lengthened_at_its_beginning():
    clip = torch.arange(6.0).reshape(1, 2, 3)
    assert repeat_first(clip, 5).tolist() == [[[0, 0, 0, 1, 2], [3, 3, 3, 4, 5]]]
