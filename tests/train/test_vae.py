"""Autoencoder training as a user runs it: outputs, stages, exact resume, damaged batches."""

import csv
import json
from pathlib import Path

import pytest
import torch

from models.discriminator import DiscriminatorConfig
from models.vae import VAE, VAEConfig
from tests.train.conftest import train, weights
from train.losses import SpectralLossConfig
from train.vae import (
    MAX_BAD_STEPS,
    VAELossConfig,
    VAEOptimiserConfig,
    VAETraining,
    latent_statistics,
)


def test_a_run_leaves_logs_demos_and_a_model(tiny_vae: Path):
    with (tiny_vae / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {key for row in rows for key, value in row.items() if value}
    terms = {"stft/convergence", "stft/log_magnitude", "stft/mel", "waveform", "kl"}
    assert {f"train/{t}" for t in terms} | {f"val/{t}" for t in terms} <= logged
    assert {"train/adv/generator", "train/adv/feature_matching", "train/adv/discriminator"} <= logged
    assert list((tiny_vae / "tensorboard").glob("events*"))
    assert (tiny_vae / "demos/step_0000020/0.wav").stat().st_size > 1000
    assert (tiny_vae / "demos/step_0000020/0.png").stat().st_size > 1000
    vae = VAE.load(tiny_vae / "export")
    assert torch.isfinite(vae.decode(vae.encode(torch.randn(1, 2, 4096) * 0.1))).all()
    assert not torch.equal(vae.latent_std, torch.ones_like(vae.latent_std))
    assert set(json.loads((tiny_vae / "export/config.json").read_text())) == {"vae"}


@pytest.mark.parametrize("stop", [5, 15])
def test_resumed_training_equals_uninterrupted_training(tmp_path: Path, tiny_vae: Path, stop: int, assert_same_weights):
    train("vae", tmp_path / "run", "--trainer.max_steps", str(stop))
    train("vae", tmp_path / "run", "--resume", "last")
    assert_same_weights(tmp_path / "run", tiny_vae)


def test_the_encoder_is_frozen_in_the_second_stage(tmp_path: Path, tiny_vae: Path):
    joint = weights(train("vae", tmp_path / "run", "--trainer.max_steps", "12"))
    both = weights(tiny_vae)
    encoder = [key for key in joint if key.startswith("vae.encoder")]
    decoder = [key for key in joint if key.startswith("vae.decoder") and "original" in key]
    assert all(torch.equal(joint[key], both[key]) for key in encoder)
    assert any(not torch.equal(joint[key], both[key]) for key in decoder)


def test_a_finished_run_is_not_overwritten(tiny_vae: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        train("vae", tiny_vae)
    assert stop.value.code == 2
    assert "already holds a training: continue it with --resume last" in capsys.readouterr().err


def test_nothing_to_resume_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train("vae", tmp_path / "none", "--resume", "last")
    assert "error: no checkpoint to resume from at" in capsys.readouterr().err


def small_training(**optimiser: float) -> VAETraining:
    model = VAEConfig(
        latent_channels=4,
        hop_length=16,
        encoder_width=4,
        encoder_strides=(4, 4),
        decoder_width=16,
        decoder_strides=(4, 4),
    )
    spectral = SpectralLossConfig(window_lengths=(64,))
    return VAETraining(
        model,
        DiscriminatorConfig(num_filters=2, window_lengths=(64,)),
        VAELossConfig(spectral=spectral, waveform_weight=1.0),
        VAEOptimiserConfig(**optimiser),  # pyright: ignore[reportArgumentType]
        seed=0,
    )


def test_a_step_without_a_finite_gradient_is_skipped_and_a_run_of_them_stops(monkeypatch):
    module = small_training()
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    optimiser = module.configure_optimizers()[0]
    before = {key: value.clone() for key, value in module.vae.state_dict().items()}

    def bad_step() -> None:
        reconstruction, posterior = module.vae(torch.full((1, 2, 256), float("nan")))
        module._generator_step(optimiser, torch.zeros(1, 2, 256), reconstruction, posterior)  # pyright: ignore

    for _ in range(MAX_BAD_STEPS - 1):
        bad_step()
    assert all(torch.equal(before[key], value) for key, value in module.vae.state_dict().items())
    with pytest.raises(ValueError, match=r"steps in a row without a finite gradient, at step 0 .*learning_rate"):
        bad_step()


def test_latent_statistics_are_those_of_the_samples():
    module = small_training()
    vae, batches = module.vae.folded(), [torch.randn(3, 2, 800) * 0.3 for _ in range(4)]
    mean, std = latent_statistics(vae, batches)
    with torch.no_grad():
        samples = torch.cat([vae.raw_posterior(audio).sample() for audio in batches * 20])  # (batch, 4, frames)
    torch.testing.assert_close(mean, samples.mean(dim=(0, 2)), atol=0.02, rtol=0.05)
    torch.testing.assert_close(std, samples.std(dim=(0, 2)), atol=0.02, rtol=0.05)


def test_one_batch_can_be_overfitted():
    """The start decides: default initialisation stays at 0 dB."""
    module = small_training()
    time = torch.arange(2048) / 44_100
    audio = torch.stack([torch.sin(2 * torch.pi * f * time) * 0.3 for f in (300.0, 450.0)]).expand(2, -1, -1)
    optimiser = torch.optim.AdamW(module.vae.parameters(), lr=3e-3)
    loss = audio.square().mean()
    for _ in range(120):
        loss = (module.vae(audio)[0] - audio).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.vae.parameters(), 1.0)
        optimiser.step()
    assert loss.item() < 0.1 * audio.square().mean().item()
