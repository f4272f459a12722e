"""Autoencoder training as a user runs it: outputs, stages, exact resume, damaged batches."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import load_part
from models.discriminator import DiscriminatorConfig
from models.vae import VAE, VAEConfig
from models.vae_waveform import WaveformConfig
from tests.train.conftest import train, weights
from train.losses import SpectralLossConfig
from train.optimisation import MAX_BAD_STEPS, OptimiserConfig
from train.vae_training import VAELossConfig, VAEStagesConfig, VAETraining


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
    assert set(json.loads((tiny_vae / "export/config.json").read_text())) == {"vae", "files"}


@pytest.mark.parametrize("stop", [7, 12, 17])  # before the adversarial terms, between the stages, in the second
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


def small_training(
    channels: int = 2, joint_steps: int = 460_000, adversarial_start: int = 10_000, warmup_steps: int = 1_000
) -> VAETraining:
    model = VAEConfig(
        audio_channels=channels,
        latent_channels=4,
        waveform=WaveformConfig(encoder_width=4, encoder_strides=(4, 4), decoder_width=16, decoder_strides=(4, 4)),
    )
    spectral = SpectralLossConfig(window_lengths=(64,))
    return VAETraining(
        vae=VAE(model),
        discriminator=DiscriminatorConfig(audio_channels=channels, num_filters=2, window_lengths=(64,)),
        loss=VAELossConfig(spectral=spectral, waveform_weight=1.0),
        stages=VAEStagesConfig(joint_steps=joint_steps, adversarial_start=adversarial_start),
        optimiser=OptimiserConfig(warmup_steps=warmup_steps),
        num_steps=1_000,
        seed=0,
    )


class Steps:
    """Runs training steps of a module without a trainer, and keeps what they log."""

    def __init__(self, module: VAETraining, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = module
        self.logs: dict[str, float] = {}
        optimisers = module.configure_optimizers()
        monkeypatch.setattr(module, "optimizers", lambda: optimisers)
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(module, "log_dict", lambda logs, **_: self.logs.update(logs))
        monkeypatch.setattr(module, "log", lambda name, value, **_: self.logs.update({name: value}))

    def run(self, audio: torch.Tensor) -> None:
        """One step on audio (batch, 2, samples)."""
        self.module.training_step({"audio": audio}, 0)

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights and averages."""
        return {key: value.clone() for key, value in self.module.state_dict().items() if "n_averaged" not in key}


SQUARE = torch.sign(torch.sin(torch.arange(512) * 0.05)).expand(2, 2, -1)


@pytest.mark.parametrize("adversarial_start", [0, 1000])
@pytest.mark.parametrize("audio", [torch.zeros(2, 2, 512), SQUARE], ids=["silence", "square"])
def test_silence_and_full_scale_square_waves_train(audio, adversarial_start: int, monkeypatch):
    steps = Steps(small_training(adversarial_start=adversarial_start, warmup_steps=1), monkeypatch)
    for _ in range(5):
        steps.run(audio)
    assert steps.module.bad_steps.total == 0
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in steps.logs.values())
    assert all(torch.isfinite(value).all() for value in steps.weights().values())


@pytest.mark.parametrize("adversarial_start", [0, 1000])
def test_one_sample_that_is_no_number_costs_one_step(adversarial_start: int, monkeypatch, caplog):
    steps = Steps(small_training(adversarial_start=adversarial_start, warmup_steps=1), monkeypatch)
    good = torch.randn(2, 2, 512, generator=torch.Generator().manual_seed(0)) * 0.1
    bad = good.clone()
    bad[1, 0, 100] = math.nan
    steps.run(good)
    before = steps.weights()
    averages = [value.clone() for value in steps.module.vae_ema.state_dict().values()]
    steps.run(bad)
    assert all(torch.equal(*pair) for pair in zip(averages, steps.module.vae_ema.state_dict().values(), strict=True))
    assert all(torch.equal(before[key], value) for key, value in steps.weights().items())
    assert steps.module.completed_steps == 2
    assert "step 1 skipped, loss or gradient not finite" in caplog.text
    assert "waveform nan" in caplog.text
    steps.run(good)
    assert steps.logs["train/bad_steps"] == 1
    assert steps.module.bad_steps.in_a_row == 0
    assert any(not torch.equal(before[key], value) for key, value in steps.weights().items())


@pytest.mark.parametrize("adversarial_start", [0, 1000])
def test_a_run_of_bad_steps_ends_the_training(adversarial_start: int, monkeypatch):
    steps = Steps(small_training(adversarial_start=adversarial_start), monkeypatch)
    bad = torch.full((1, 2, 512), math.nan)
    for _ in range(MAX_BAD_STEPS - 1):
        steps.run(bad)
    with pytest.raises(ValueError, match=r"20 steps in a row .* at step 19 \(.*waveform nan.*optimiser.learning_rate"):
        steps.run(bad)


def test_an_infinite_loss_with_finite_gradients_is_skipped(monkeypatch):
    steps = Steps(small_training(), monkeypatch)
    terms = steps.module._reconstruction_terms
    monkeypatch.setattr(steps.module, "_reconstruction_terms", lambda *a: terms(*a) | {"kl": torch.tensor(math.inf)})
    before = steps.weights()
    steps.run(torch.randn(1, 2, 512) * 0.1)
    assert steps.module.bad_steps.total == 1
    assert all(torch.equal(before[key], value) for key, value in steps.weights().items())


def test_every_term_is_logged_with_its_weight(monkeypatch):
    steps = Steps(small_training(adversarial_start=0, joint_steps=1), monkeypatch)
    audio = torch.randn(1, 2, 512) * 0.1
    steps.run(audio)
    assert steps.logs["weight/kl"] == 1e-4
    steps.run(audio)
    assert steps.logs["weight/kl"] == 0  # the encoder is frozen
    terms = {key.removeprefix("weight/") for key in steps.logs if key.startswith("weight/")}
    spectral = {"stft/convergence", "stft/log_magnitude"}
    assert terms == spectral | {"waveform", "kl", "adv/generator", "adv/feature_matching"}
    assert {f"train/{term}" for term in terms} <= steps.logs.keys()


def test_losses_are_float32_under_autocast(monkeypatch):
    steps = Steps(small_training(adversarial_start=0), monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        steps.run(torch.randn(1, 2, 512) * 0.1)
    losses = [value for key, value in steps.logs.items() if key.startswith("train/") and torch.is_tensor(value)]
    assert len(losses) > 5
    assert {value.dtype for value in losses} == {torch.float32}


def test_a_mono_model_trains_on_stereo_data(monkeypatch):
    steps = Steps(small_training(channels=1, adversarial_start=0), monkeypatch)
    before = steps.weights()
    steps.run(torch.randn(2, 2, 512) * 0.1)
    assert steps.module.bad_steps.total == 0
    assert not torch.equal(steps.weights()["vae.decoder.0.bias"], before["vae.decoder.0.bias"])


SHORT = ("--trainer.max_steps", "4", "--trainer.validation_batches", "0")


def test_fine_tuning_keeps_the_encoder_and_the_latents(tmp_path: Path, tiny_vae: Path):
    before = load_part(tiny_vae / "export", "vae")[1]
    run = train("vae", tmp_path / "run", "--init_from", str(tiny_vae / "export"), *SHORT)
    after = load_part(run / "export", "vae")[1]
    kept = [key for key in before if not key.startswith("decoder.")]
    assert {"latent_mean", "latent_std"} < set(kept)
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    trained = train("vae", tmp_path / "all", "--init_from", str(tiny_vae / "export"), "--train", "all", *SHORT)
    after = load_part(trained / "export", "vae")[1]
    assert all(not torch.equal(before[key], after[key]) for key in ("encoder.0.weight", "latent_mean"))


def test_fine_tuning_resumes_only_as_what_it_was(tmp_path: Path, tiny_vae: Path, assert_same_weights, capsys):
    init = ["--init_from", str(tiny_vae / "export")]
    train("vae", tmp_path / "whole", *init, *SHORT)
    train("vae", tmp_path / "run", *init, *SHORT, "--trainer.max_steps", "2")
    with pytest.raises(SystemExit):
        train("vae", tmp_path / "run", *SHORT, "--resume", "last")
    assert "give the same --init_from" in capsys.readouterr().err
    train("vae", tmp_path / "run", *init, *SHORT, "--resume", "last")
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_data_unlike_the_statistics_is_told(tmp_path: Path, tiny_vae: Path, caplog):
    vae = VAE.load(tiny_vae / "export")
    vae.set_latent_statistics(vae.latent_mean + 2 * vae.latent_std, vae.latent_std)
    vae.save(tmp_path / "shifted")
    for folder, told in ((tmp_path / "shifted", True), (tiny_vae / "export", False)):
        caplog.clear()
        train("vae", tmp_path / f"run{told}", "--init_from", str(folder), *SHORT, "--trainer.max_steps", "1")
        assert ("off the checkpoint's statistics by more than 0.5 std" in caplog.text) == told


def test_a_checkpoint_that_does_not_fit_lists_every_kind_of_difference(tmp_path: Path, tiny_vae: Path, capsys):
    config, state = load_part(tiny_vae / "export", "vae")
    # The order of the file's keys is not fixed, and a tensor of one row cannot be cut.
    first, second, *_ = sorted(key for key in state if key.startswith("encoder.") and len(state[key]) > 1)
    state["encoder.strange"] = state.pop(first)
    state[second] = state[second][:1]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text(json.dumps({"vae": config}))  # an older folder, without a list of files
    save_file(state, tmp_path / "bad/vae.safetensors")
    with pytest.raises(SystemExit):
        train("vae", tmp_path / "run", "--init_from", str(tmp_path / "bad"))
    error = capsys.readouterr().err
    assert "3 differences" in error
    assert all(word in error for word in (f"missing {first}", "unknown encoder.strange", f"{second} has shape"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.audio_channels", "1"], "must both be 1 or both 2, got 1 and 2"),
        (["--model.sample_rate", "48000"], "sample_rate must be the data's 44100"),
        (["--data.num_validation", "0"], "num_validation must be at least 1"),
        (["--trainer.accumulate_grad_batches", "2"], "cannot accumulate gradients"),
        (["--model.waveform.encoder_strides", "[8, 8]"], "have the same product, the hop length"),
        (["--init_from", "nowhere"], "no model in nowhere"),
        (["--data.crop_samples", "1"], "data.crop_samples must be in [1024, "),
        (
            ["--loss.spectral.window_lengths", "[65536]"],
            "data.crop_samples must hold the longest window, 65536 samples",
        ),
        (["--data.latents", "runs"], "data.latents and data.replay are for train.diffusion"),
        (["--train", "tones"], "--train tones needs a trained autoencoder"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(options, message: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        train("vae", tmp_path / "run", *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


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
