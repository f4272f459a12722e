"""Losses of the autoencoder: auraloss' values at batch 1, and finite where auraloss is not."""

import math

import auraloss
import pytest
import torch
from torch import Tensor

from train.losses import (
    SpectralLoss,
    SpectralLossConfig,
    discriminator_loss,
    feature_matching_loss,
    filter_audio,
    filter_blocks,
    generator_loss,
    waveform_loss,
)

SAMPLES = 8192
WINDOWS = (512, 128)


def spectral_loss(channels: int = 2, **config: float) -> SpectralLoss:
    return SpectralLoss(SpectralLossConfig(window_lengths=WINDOWS, mel_bins=16, **config), 44_100, channels)  # pyright: ignore[reportArgumentType]


def stereo(seed: int, level: float = 0.1) -> Tensor:
    return torch.randn(1, 2, SAMPLES, generator=torch.Generator().manual_seed(seed)) * level


@pytest.mark.parametrize(
    ("convergence", "log_magnitude", "terms"),
    [(1.0, 0.0, ["stft/convergence"]), (0.0, 1.0, ["stft/log_magnitude"]), (1.0, 1.0, [])],
    ids=["convergence", "log magnitude", "both"],
)
def test_sum_and_difference_are_auralosss_at_batch_one(convergence: float, log_magnitude: float, terms: list[str]):
    reference = auraloss.freq.SumAndDifferenceSTFTLoss(
        fft_sizes=list(WINDOWS),
        hop_sizes=[w // 4 for w in WINDOWS],
        win_lengths=list(WINDOWS),
        perceptual_weighting=True,
        sample_rate=44_100,
        eps=1e-12,
        w_sc=convergence,
        w_log_mag=log_magnitude,
    )
    prediction, target = stereo(0), stereo(1)
    loss = spectral_loss(power_floor=1e-14, convergence_floor=0.0)
    channels = loss._channels
    loss._channels = lambda audio: channels(audio)[:, :2]  # sum and difference alone
    loss._channel_weights = lambda device: torch.full((2,), 0.5, device=device)
    values = loss(prediction, target)
    ours = sum(values[term].item() for term in terms or ["stft/convergence", "stft/log_magnitude"])
    assert ours == pytest.approx(reference(prediction, target).item(), rel=1e-3)


def test_every_term_is_zero_at_the_target_and_positive_elsewhere():
    loss, target = spectral_loss(), stereo(0)
    for value in loss(target, target).values():
        assert value.item() < 2e-3
    for value in loss(stereo(1), target).values():
        assert value.item() > 0.1


def test_a_batch_is_the_mean_of_its_items():
    loss = spectral_loss()
    predictions, targets = [stereo(s) for s in (0, 1)], [stereo(s, 0.01) for s in (2, 3)]
    together = loss(torch.cat(predictions), torch.cat(targets))
    apart = [loss(p, t) for p, t in zip(predictions, targets, strict=True)]
    for name, value in together.items():
        torch.testing.assert_close(value, (apart[0][name] + apart[1][name]) / 2)


@pytest.mark.parametrize("kind", ["silence", "dual mono", "square", "silent prediction"])
def test_hard_targets_give_finite_losses_and_gradients(kind: str):
    target = {
        "silence": torch.zeros(1, 2, SAMPLES),
        "dual mono": stereo(0)[:, :1].expand(-1, 2, -1),
        "square": torch.sign(torch.sin(torch.arange(SAMPLES) * 0.05)).expand(1, 2, -1),
        "silent prediction": stereo(0),
    }[kind]
    prediction = (stereo(1) * (kind != "silent prediction")).requires_grad_()
    total = sum(spectral_loss()(prediction, target).values()) + waveform_loss(prediction, target)
    assert isinstance(total, Tensor)
    assert torch.isfinite(total)
    assert total < 1000
    (gradient,) = torch.autograd.grad(total, prediction)
    assert torch.isfinite(gradient).all()


def test_a_prediction_below_the_floor_still_has_a_gradient():
    prediction = (stereo(1) * 1e-6).requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_loss()(prediction, stereo(0))["stft/log_magnitude"], prediction)
    assert gradient.abs().sum() > 0


def test_relative_floor_makes_the_loss_independent_of_level():
    loss = spectral_loss(power_floor=1e-14, relative_floor=1e-3)
    loud, quiet = loss(stereo(0), stereo(1)), loss(stereo(0) * 0.01, stereo(1) * 0.01)
    for name, value in loud.items():
        torch.testing.assert_close(quiet[name], value, rtol=1e-3, atol=1e-4)


def test_a_tones_few_bins_weigh_as_much_as_a_noises_many():
    tone = torch.sin(2 * torch.pi * 0.05 * torch.arange(8192)).expand(1, 2, -1)
    for floor in (0.0, 3e-2):
        loss = spectral_loss(relative_floor=floor, power_floor=1e-4)
        for name in ("stft/log_magnitude", "stft/mel"):
            of_noise, of_tone = (float(loss(x / 10, x)[name]) for x in (stereo(0), tone))
            assert (of_tone > 0.8 * of_noise) == (floor > 0), name


@pytest.mark.parametrize("frames", [1, 4])
def test_averaged_frames_compare_the_levels_of_noise(frames: int):
    loss = spectral_loss(mel_frames=frames)
    chance, twice = loss(stereo(0), stereo(1))["stft/mel"], loss(2 * stereo(0), stereo(0))["stft/mel"]
    assert (chance < 0.3) == (frames == 4)
    assert twice == pytest.approx(math.log(2) * 1.5, rel=1e-3)  # sum and difference, left and right at half weight


def test_half_precision_is_computed_in_float():
    terms = spectral_loss()(stereo(0).bfloat16(), stereo(1).bfloat16())
    assert {value.dtype for value in terms.values()} == {torch.float32}


@pytest.mark.parametrize("samples", [1, 100, 128, 1000])
def test_a_filter_in_blocks_is_the_filter(samples: int):
    taps, audio = torch.randn(101, dtype=torch.float64), torch.randn(2, 3, samples, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(audio.flatten(0, 1)[:, None], taps[None, None], padding=50)
    torch.testing.assert_close(filter_audio(audio, filter_blocks(taps)), expected.view_as(audio))


def test_mono():
    terms = spectral_loss(channels=1)(stereo(0)[:, :1], stereo(1)[:, :1])
    assert all(torch.isfinite(value) for value in terms.values())


def test_waveform_loss_of_silence_as_prediction_is_one():
    assert waveform_loss(torch.zeros(1, 2, 100), torch.ones(1, 2, 100)).item() == pytest.approx(1, rel=1e-3)


def test_hinge_losses():
    real, fake = [torch.tensor([2.0, 0.0])], [torch.tensor([-2.0, 0.5])]
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 + 0.75)
    assert generator_loss(fake).item() == pytest.approx(0.75)


def test_feature_matching_is_relative_and_spares_the_real_side():
    real = [[torch.full((4,), 2.0, requires_grad=True)]]
    fake = [[torch.full((4,), 1.0, requires_grad=True)]]
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


def test_a_crop_shorter_than_the_averaged_frames_is_finite():
    terms = spectral_loss(mel_frames=1000)(stereo(0), stereo(1))
    assert all(torch.isfinite(value) for value in terms.values())
    with pytest.raises(ValueError, match=r"mel_frames must be in \[1, 10000\], got 0"):
        spectral_loss(mel_frames=0)
