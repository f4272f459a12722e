"""What autoencoders with band levels train besides: tones found in spectra, their loss, and their stage."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import load_part
from models.vae import VAE, VAEConfig
from models.vae_bands import quarter_tones_hz
from models.vae_waveform import WaveformConfig
from tests.train.conftest import train
from train.band_losses import ToneLoss, tone_peaks

PLAIN = VAEConfig(latent_channels=4, waveform=WaveformConfig(encoder_width=4, decoder_width=32))
BANDS = [
    *("--model.kind", "bands", "--model.bands.stem_stride", "64", "--tones.weight", "10"),
    *("--model.waveform.encoder_width", "128", "--model.waveform.encoder_strides", "[4, 4, 8, 8]"),
    *("--model.waveform.decoder_width", "1536", "--model.waveform.decoder_strides", "[8, 8, 4, 4]"),
    *("--model.bands.encoder_strides", "[4, 4]", "--model.bands.decoder_strides", "[4, 4]"),
    *("--model.bands.encoder_width", "4", "--model.bands.decoder_width", "32"),
]


def chord(tones: list[int], amplitudes: list[float], samples: int = 32_768) -> Tensor:
    """Sines at quarter tones, by index, on both channels: (1, 2, samples)."""
    hz = quarter_tones_hz(44_100)[tones, None]
    waves = torch.sin(2 * math.pi * hz * torch.arange(samples) / 44_100)
    return (torch.tensor(amplitudes)[:, None] * waves).sum(dim=0).float().expand(1, 2, -1)


def test_tones_are_found_with_their_amplitudes_and_noise_is_none():
    power = ToneLoss(1024, 44_100).power
    tones, amplitudes = [60, 84, 140], [0.3, 0.1, 0.02]
    noise = 1e-3 * torch.randn(1, 2, 32_768, generator=torch.Generator().manual_seed(0))
    inside = slice(4, -4)
    peaks = tone_peaks(power(chord(tones, amplitudes) + noise).unflatten(1, (2, -1)))[..., inside]
    assert sorted(peaks.mean(dim=(0, 1, 3)).topk(3).indices.tolist()) == tones
    assert peaks[:, :, tones].sqrt().mean(dim=(0, 1, 3)).tolist() == pytest.approx(amplitudes, rel=0.05)
    assert float((peaks > 0).float().mean()) == pytest.approx(3 / peaks.shape[2], rel=0.1)


def test_the_right_tones_cost_nothing_and_a_tone_that_is_off_is_turned_up():
    loss, tones, amplitudes = ToneLoss(1024, 44_100), [60, 140], [0.3, 0.05]
    audio = chord(tones, amplitudes)
    right = torch.zeros(1, 2, len(quarter_tones_hz(44_100)), 32)
    right[:, :, tones] = torch.tensor(amplitudes)[:, None]
    assert float(loss(right, audio)) < 1e-3
    off = torch.full_like(right, -8.0).requires_grad_()  # amplitudes of 0.0003 through a softplus
    value = loss(torch.nn.functional.softplus(off), audio)
    (gradient,) = torch.autograd.grad(value, off)
    assert float(value.detach()) > 0.02
    assert (gradient[:, :, tones, 8:-8] < 0).all()
    loud = right.clone()
    loud[:, :, 100] = 0.3  # a tone that is not there
    assert float(loss(loud, audio)) > 0.01


def test_silence_has_no_tones():
    loss = ToneLoss(1024, 44_100)
    amplitudes = torch.full((1, 2, len(quarter_tones_hz(44_100)), 32), 1e-6).requires_grad_()
    value = loss(amplitudes, torch.zeros(1, 2, 32_768))
    value.backward()
    assert float(value.detach()) < 1e-3
    assert amplitudes.grad is not None
    assert amplitudes.grad.isfinite().all()
    with pytest.raises(ValueError, match="crops of more than 8 frames, got 8"):
        loss(amplitudes[..., :8], torch.zeros(1, 2, 8192))


def test_the_decoders_noise_is_the_same_in_a_resumed_training(tmp_path: Path, assert_same_weights):
    bands = [*BANDS, "--stages.joint_steps", "4"]
    train("vae", tmp_path / "whole", *bands, "--trainer.max_steps", "4")
    train("vae", tmp_path / "parts", *bands, "--trainer.max_steps", "2")
    train("vae", tmp_path / "parts", *bands, "--trainer.max_steps", "4", "--resume", "last")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_the_tones_alone_are_trained_and_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = train("vae", tmp_path / "first", *BANDS, "--trainer.max_steps", "2")
    before = load_part(first / "export", "vae")[1]
    options = [*BANDS, "--init_from", str(first / "export"), "--train", "tones"]
    faster = ["--optimiser.learning_rate", "0.02", "--optimiser.warmup_steps", "1", "--optimiser.ema_decay", "0.5"]
    faster += ["--tones.steps", "2"]
    run = train("vae", tmp_path / "tones", *options, *faster, "--trainer.max_steps", "30")
    after = load_part(run / "export", "vae")[1]
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith("decoder.0.layers.1.") for key in changed)
    with (run / "csv/version_0/metrics.csv").open() as file:
        values = [float(row["val/tones"]) for row in csv.DictReader(file) if row["val/tones"]]
    assert values[-1] < 0.8 * values[0]
    VAE(PLAIN).save(tmp_path / "plain")
    for wrong, told in (
        (["--tones.weight", "0"], "--train tones needs a tones.weight above 0"),
        (["--init_from", str(tmp_path / "plain")], "another configuration than the given `model`"),
    ):
        with pytest.raises(SystemExit):
            train("vae", tmp_path / "wrong", *options, *wrong)
        assert told in capsys.readouterr().err
