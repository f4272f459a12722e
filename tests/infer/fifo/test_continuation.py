"""A stream that continues a sound: the sound itself first, no seam in latents or samples, then what follows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infer.fifo import EndlessStream, QueueOptions, StreamConfig
from infer.fifo.continuation import FADE_SECONDS, ContinuedDecoding, open_with
from infer.guidance import GuidanceConfig
from models.text_to_audio import Conditioning, TextToAudio

CONFIG = StreamConfig(
    queue=QueueOptions(context_frames=8, chunk_frames=4, num_chunks=4, steps_per_shift=1),
    guidance=GuidanceConfig(scale=2.0, rescale=0.0),
)


@pytest.fixture
def sound() -> Tensor:
    """50 frames and a bit, (2, samples)."""
    time = torch.arange(50 * 1024 + 300) / 44_100
    return 0.5 * torch.stack((torch.sin(2000 * time), torch.cos(3000 * time)))


def test_latents_are_those_of_the_sound_and_its_mirror_image(tiny_model: TextToAudio, sound: Tensor):
    for context in (0, 20, 45, 99):
        opening = open_with(tiny_model, sound[None], context)
        assert torch.equal(opening.audio[0], sound[:, 300:])
        num_frames = opening.latents.shape[-1]
        assert min(context, 50) <= num_frames <= max(context, 30)
        mirrored = torch.cat((opening.audio, opening.audio.flip(-1)[:, : 30 * 1024]), dim=-1)
        assert torch.allclose(opening.latents, tiny_model.encode(mirrored)[..., 50 - num_frames : 50], atol=1e-5)
    for wrong in (sound[None, :, :500], sound[None, :1], sound):
        with pytest.raises(ValueError, match=r"must be \(2, at least 1024 samples\), got"):
            open_with(tiny_model, wrong, 8)


@pytest.mark.parametrize("is_heard", [True, False])
def test_the_joint_has_no_seam(tiny_model: TextToAudio, sound: Tensor, is_heard: bool):
    """Behind the sound comes exactly what decoding everything at once would give there."""
    opening = open_with(tiny_model, sound[None], 50)
    following = 0.3 * torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(0))
    decoding = ContinuedDecoding(tiny_model, 1, opening, is_heard)
    got = torch.cat([*(decoding.push(piece) for piece in following.split(4, dim=-1)), decoding.finish()], dim=-1)
    whole = tiny_model.decode(torch.cat((opening.latents, following), dim=-1))
    length = opening.audio.shape[-1]
    if not is_heard:
        assert torch.allclose(got, whole[..., length:], atol=1e-5)
        return
    fade = round(FADE_SECONDS * 44_100)
    assert torch.equal(got[..., : length - fade], opening.audio[..., : length - fade])
    assert torch.allclose(got[..., length:], whole[..., length:], atol=1e-5)
    weight = (torch.arange(fade) + 0.5) / fade
    mixed = torch.lerp(opening.audio[..., length - fade :], whole[..., length - fade : length], weight)
    assert torch.allclose(got[..., length - fade : length], mixed, atol=1e-5)


def test_the_stream_continues_it(tiny_model: TextToAudio, sound: Tensor):
    opening = open_with(tiny_model, sound[None], 8)
    length = opening.audio.shape[-1]
    heard = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound)
    seen = []
    network = tiny_model.network

    def recorder(latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        seen.append(latents)
        return network(latents, t, conditioning)

    heard._denoiser.network = recorder
    audio = heard.read(2.0)
    assert torch.equal(seen[0][:1, :, :8], opening.latents[..., -8:])
    after = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound, init_in_output=False).read(0.5)
    assert torch.allclose(audio[..., length : length + 22_050], after, atol=1e-5)
    assert torch.equal(audio[..., :40_000], opening.audio[..., :40_000])
    fresh = EndlessStream(tiny_model, "rain", CONFIG).read(0.5)
    assert not torch.allclose(after, fresh, atol=1e-3)


def test_times_count_from_the_start_of_the_output(tiny_model: TextToAudio, sound: Tensor):
    stream = EndlessStream(tiny_model, "rain", CONFIG, init_audio=sound)
    assert stream.cue(2.0, "wind").begins_seconds == pytest.approx(2.0, abs=0.012)
    assert stream.cue(0.2, "wind").begins_seconds == pytest.approx(50 * 1024 / 44_100)
    whole = EndlessStream(tiny_model, "rain", replace(CONFIG, seconds=1.7), init_audio=sound)
    assert sum(piece.shape[-1] for piece in whole) == 74_970


def test_what_cannot_be_continued(tiny_model: TextToAudio, sound: Tensor):
    for config, message in (
        (replace(CONFIG, seconds=1.0), "is 1.2 s long: ask for more than 1 s"),
        (replace(CONFIG, queue=replace(CONFIG.queue, context_frames=0)), "have a context"),
    ):
        with pytest.raises(ValueError, match=message):
            EndlessStream(tiny_model, "rain", config, init_audio=sound)


def test_a_batch_continues_one_sound(tiny_model: TextToAudio, sound: Tensor):
    pair = EndlessStream(tiny_model, ["rain", "wind"], CONFIG, seeds=[0, 5], init_audio=sound).read(1.6)
    assert torch.equal(pair[0, :, :40_000], pair[1, :, :40_000])
    alone = EndlessStream(tiny_model, "wind", CONFIG, seeds=5, init_audio=sound).read(1.6)
    assert torch.allclose(pair[1:], alone, atol=1e-4)
