"""From latents to sound: exact streaming, batches, the fade at the end."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infer.decoding import Decoding, end_at, on_device
from infer.limiter import limit
from models.streaming import StreamingDecoder
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig

WAVEFORM = WaveformConfig(encoder_width=2, decoder_width=32, dilations=(1,))


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(
        VAEConfig(
            latent_channels=3,
            waveform=WaveformConfig(encoder_width=4, encoder_strides=(2, 4), decoder_width=16, decoder_strides=(4, 2)),
        )
    ).eval()


def host(vae: VAE) -> Any:
    return SimpleNamespace(device=torch.device("cpu"), decoder=lambda: StreamingDecoder(vae))


@pytest.mark.parametrize("batch", [1, 3])
def test_streamed_decoding_is_the_whole_decoding(vae: VAE, batch: int):
    latents = torch.randn(batch, 3, 40, generator=torch.Generator().manual_seed(1))
    decoding = Decoding(host(vae), batch)
    pieces = [decoding.push(chunk) for chunk in latents.split(7, dim=-1)] + [decoding.finish()]
    with torch.no_grad():
        whole = torch.stack([limit(audio) for audio in vae.decode(latents)])
    assert len(pieces) > 3
    assert torch.allclose(torch.cat(pieces, dim=-1), whole, atol=1e-6)


def test_decoding_resumed_from_its_state_equals_one_that_never_stopped(vae: VAE):
    exact = host(copy.deepcopy(vae).double())  # in float32, chunks of other lengths differ by more at such levels
    generator = torch.Generator().manual_seed(1)
    latents = 30 * torch.randn(2, 3, 400, generator=generator).double()  # loud: the limiter is at work
    unbroken = Decoding(exact, 2)
    whole = torch.cat([*(unbroken.push(piece) for piece in latents.split(10, dim=-1)), unbroken.finish()], dim=-1)
    first = Decoding(exact, 2)
    start = first.push(latents[..., :210])
    second = Decoding(exact, 2)
    second.load_state_dict(first.state_dict())
    resumed = torch.cat((start, second.push(latents[..., 210:]), second.finish()), dim=-1)
    assert torch.allclose(resumed, whole, atol=1e-6)


def test_mono_becomes_stereo():
    mono = VAE(VAEConfig(audio_channels=1, latent_channels=3, waveform=WAVEFORM)).eval()
    latents = torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(1))
    decoding = Decoding(host(mono))
    audio = torch.cat((decoding.push(latents), decoding.finish()), dim=-1)
    assert audio.shape[:2] == (1, 2)
    assert torch.equal(audio[:, 0], audio[:, 1])
    assert audio.any()


def test_sound_that_is_not_finite_is_refused(vae: VAE):
    with pytest.raises(ValueError, match="not finite"):
        Decoding(host(vae)).push(torch.full((1, 3, 40), float("nan")))


@pytest.mark.parametrize("size", [1, 100, 999, 5000])
def test_the_end_is_at_the_sample_with_a_fade(size: int):
    done, pieces = 0, []
    for piece in torch.ones(2, 5000).split(size, dim=-1):
        pieces.append(end_at(3000, done, piece, 882))
        done += pieces[-1].shape[-1]
    audio = torch.cat(pieces, dim=-1)
    assert audio.shape == (2, 3000)
    assert torch.equal(audio[:, : 3000 - 882], torch.ones(2, 3000 - 882))
    assert (audio.diff() <= 0).all()
    assert audio[0, -1] == 0
    assert audio.diff().abs().max() < 0.005


def test_states_move_between_devices():
    state = {"a": [torch.zeros(2), {"b": torch.ones(1)}], "c": 3, "d": None}
    moved = on_device(state, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1]["b"].device.type == "meta"
    assert (moved["c"], moved["d"]) == (3, None)
