"""Training of the spectral autoencoder as a user runs it: stages, what each of them trains, exact resume."""

import csv
from pathlib import Path

import pytest
import torch

from models.vae import VAE
from tests.train.conftest import train, weights

SPECTRAL = [
    *("--model.kind", "spectral", "--model.latent_channels", "14", "--model.initial_log_std", "-2"),
    *("--model.waveform.encoder_width", "128", "--model.waveform.encoder_strides", "[4, 4, 8, 8]"),
    *("--model.waveform.decoder_width", "1536", "--model.waveform.decoder_strides", "[8, 8, 4, 4]"),
    *("--model.spectral.width", "16", "--model.spectral.latent_width", "16", "--model.spectral.components", "8"),
    *("--model.spectral.tone_channels", "6", "--model.spectral.tone_width", "32"),
    *("--tone_path.steps", "4", "--tone_path.repeats", "2", "--tone_path.num_drawn", "4"),
    *("--stages.joint_steps", "8", "--stages.adversarial_start", "8", "--trainer.max_steps", "10"),
    *("--loss.spectral.windows_per_step", "1", "--data.crop_samples", "16384"),
]
TONES = ("encoder.tone_code", "decoder.tone_net", "decoder.bank")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("vae", tmp_path_factory.mktemp("spectral") / "run", *SPECTRAL)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key[len("vae.") :] for key in before if key.startswith("vae.") and not torch.equal(before[key], after[key])}


def test_each_stage_trains_its_part(tmp_path: Path, run: Path):
    start, tones, joint = (
        weights(train("vae", tmp_path / stop, *SPECTRAL, "--trainer.max_steps", stop)) for stop in ("1", "4", "8")
    )
    both = weights(run)
    in_tone_stage = changed(start, tones)
    assert in_tone_stage
    assert all(key.startswith(TONES) for key in in_tone_stage)
    in_joint_stage = changed(tones, joint)
    assert any(key.startswith("encoder.trunk") for key in in_joint_stage)
    assert any(key.startswith("encoder.project") for key in in_joint_stage)
    assert any(key.startswith(TONES) for key in in_joint_stage)
    assert not any(key.startswith("encoder.components") for key in in_joint_stage)
    in_last_stage = changed(joint, both)
    assert any(key.startswith("decoder.trunk") for key in in_last_stage)
    assert not any(key.startswith("encoder") for key in in_last_stage)


def test_a_run_logs_its_terms_and_leaves_a_model(run: Path):
    with (run / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {key for row in rows for key, value in row.items() if value}
    terms = {"tones/level", "tones/pitch", "tones/kl", "kl", "stft/mel"}
    assert {f"{part}/{term}" for part in ("train", "val") for term in terms} <= logged
    vae = VAE.load(run / "export")
    assert vae.config.kind == "spectral"
    assert torch.isfinite(vae.decode(vae.encode(0.1 * torch.randn(1, 2, 16384)))).all()


def test_every_stage_has_a_learning_rate_of_its_own(tmp_path: Path):
    cosine = ["--optimiser.final_share", "0.01", "--optimiser.warmup_steps", "1"]
    run = train("vae", tmp_path / "run", *SPECTRAL, *cosine)
    with (run / "csv/version_0/metrics.csv").open() as file:
        rates = [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert rates[:4] == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3])
    assert len(rates) == 10
    assert rates[8] > 0.1 * max(rates[4:8])  # the decoder's stage begins anew


@pytest.mark.parametrize("stop", ["2", "6", "9"])
def test_resumed_training_equals_uninterrupted_training(tmp_path: Path, run: Path, stop: str, assert_same_weights):
    train("vae", tmp_path / "run", *SPECTRAL, "--trainer.max_steps", stop)
    train("vae", tmp_path / "run", *SPECTRAL, "--resume", "last")
    assert_same_weights(tmp_path / "run", run)


def test_the_tones_alone_learn(tmp_path: Path):
    options = ["--tone_path.steps", "60", "--trainer.max_steps", "60", "--trainer.validate_every_steps", "30"]
    run = train("vae", tmp_path / "run", *SPECTRAL, *options, "--optimiser.ema_decay", "0.5")
    with (run / "csv/version_0/metrics.csv").open() as file:
        values = [float(row["train/tones/level"]) for row in csv.DictReader(file) if row["train/tones/level"]]
    assert sum(values[-10:]) / 10 < 0.7 * values[0]
