"""Statistics of latents: those of samples, the same however the audio is cut, written back and nothing else touched."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data import latent_statistics as command
from data.cli import run
from data.clips import FolderClips, LatentDataConfig
from data.latent_statistics import LatentMoments, latent_moments, raw_statistics
from models.checkpoint import load_part, replace_tensors, save_config
from models.vae import VAE, Posterior, VAEConfig
from models.vae_waveform import WaveformConfig

SMALL = WaveformConfig(encoder_width=2, decoder_width=32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent_channels=4, waveform=SMALL, initial_log_std=-1.0))
    vae.set_latent_statistics(torch.randn(4) * 0.1, torch.rand(4) + 0.5)
    vae.save(tmp_path / "model", torch.float32)
    return tmp_path / "model"


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    (tmp_path / "songs").mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (40_000 + 999 * seed, 2))
        soundfile.write(tmp_path / f"songs/{seed}.wav", noise, 44_100, subtype="FLOAT")
    return tmp_path / "songs"


def test_moments_are_those_of_samples():
    posterior = Posterior(torch.randn(50, 3, 400) + 5, torch.rand(50, 3, 400))
    moments = LatentMoments(3)
    for part in range(0, 400, 150):
        moments.push(Posterior(posterior.mean[..., part : part + 150], posterior.std[..., part : part + 150]))
    mean, std = moments.mean_std()
    samples = posterior.sample(torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(mean, samples.mean(dim=(0, 2)), atol=0.02, rtol=0)
    torch.testing.assert_close(std, samples.std(dim=(0, 2)), atol=0.02, rtol=0)


def test_a_large_mean_does_not_cancel():
    moments = LatentMoments(1)
    for _ in range(100):
        moments.push(Posterior(torch.full((1, 1, 1000), 1000.0), torch.full((1, 1, 1000), 0.01)))
    assert moments.mean_std()[1].item() == pytest.approx(0.01, rel=1e-2)
    with pytest.raises(ValueError, match="no audio to measure"):
        LatentMoments(1).mean_std()


def test_the_command_normalises_its_data_and_changes_nothing_else(model: Path, songs: Path, capsys):
    before = load_part(model, "vae")[1]
    data = LatentDataConfig(folder=str(songs), num_workers=0, validation_share=0.25)
    command.main(model, data, device="cpu")
    assert "new against old statistics" in capsys.readouterr().out
    after = load_part(model, "vae")[1]
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"latent_mean", "latent_std"}
    vae = VAE.load(model)
    training = FolderClips(data, None, None).files["train"]
    assert len(training) == 3
    clips = [soundfile.read(sorted(songs.glob("*.wav"))[file], dtype="float32")[0].T for file in training]
    mean, std = latent_moments(vae, (torch.from_numpy(clip.copy())[None] for clip in clips))
    torch.testing.assert_close(mean, torch.zeros(4).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(4).double(), atol=1e-5, rtol=0)
    raw_mean, raw_std = raw_statistics(vae, mean, std)
    torch.testing.assert_close(raw_mean.float(), vae.latent_mean[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(raw_std.float(), vae.latent_std[:, 0], atol=1e-5, rtol=0)


def test_a_mono_model_is_measured_too(tmp_path: Path, songs: Path):
    VAE(VAEConfig(audio_channels=1, latent_channels=4, waveform=SMALL)).save(tmp_path / "mono")
    command.main(tmp_path / "mono", LatentDataConfig(folder=str(songs), num_workers=0), clips=1, device="cpu")
    assert not torch.equal(VAE.load(tmp_path / "mono").latent_std, torch.ones(4, 1))


def test_a_folder_with_a_unet_is_refused(model: Path, songs: Path, capsys: pytest.CaptureFixture[str]):
    save_config(model, "unet", {})
    before = load_part(model, "vae")[1]
    arguments = ["--model", str(model), "--data.folder", str(songs), "--data.num_workers", "0", "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        run(command.main, argv=arguments)
    assert stop.value.code == 2
    assert "holds a U-Net trained on latents with its present statistics" in capsys.readouterr().err
    assert torch.equal(before["latent_std"], load_part(model, "vae")[1]["latent_std"])
    run(command.main, argv=[*arguments, "--force"])
    assert not torch.equal(before["latent_std"], load_part(model, "vae")[1]["latent_std"])


def test_tensors_that_are_not_there_are_named(model: Path):
    with pytest.raises(ValueError, match=r"part 'vae' of .* has no strange"):
        replace_tensors(model, "vae", {"strange": torch.zeros(1)})
