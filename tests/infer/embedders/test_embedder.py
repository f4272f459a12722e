"""Preprocessing: windows, levels, channels."""

import math

import pytest
import torch
from torch import Tensor, nn

from infer.embedders import Embedded, Embedder, Preprocessing, openl3, passt, vggish


def tone(hz: float, seconds: float) -> Tensor:
    time = torch.arange(round(seconds * 44_100)) / 44_100
    return 0.1 * torch.stack((torch.sin(2 * math.pi * hz * time), torch.zeros(len(time))))


@pytest.mark.parametrize("rate", [16_000, 32_000, 48_000])
def test_resampling_keeps_a_tone(rate: int):
    windows = Preprocessing(sample_rate=rate, channels="first")(tone(1000.0, 1.0))
    assert windows.shape == (1, 1, rate)
    expected = 0.1 * torch.sin(2 * math.pi * 1000 * torch.arange(rate) / rate)
    torch.testing.assert_close(windows[0, 0, 500:-500], expected[500:-500], atol=1e-4, rtol=0)


def test_levels_and_channels():
    audio = tone(440.0, 0.5)
    plain = Preprocessing(sample_rate=44_100)
    torch.testing.assert_close(plain(audio)[0, 0], audio[0] / 2)
    assert Preprocessing(sample_rate=44_100, channels="stereo")(audio).shape == (1, 2, 22_050)
    loud = Preprocessing(sample_rate=44_100, peak_db=-1.0)(audio)
    assert float(loud.abs().max()) == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    assert torch.equal(Preprocessing(sample_rate=44_100, peak_db=-1.0)(torch.zeros(2, 100)), torch.zeros(1, 1, 100))
    shifted = Preprocessing(sample_rate=44_100, remove_mean=True)(audio + 0.3)
    torch.testing.assert_close(shifted[0, 0], audio[0] / 2, atol=1e-6, rtol=0)
    rounded = Preprocessing(sample_rate=44_100, quantise=True)(audio) * 32_767
    torch.testing.assert_close(rounded, rounded.round(), atol=2e-3, rtol=0)
    assert Preprocessing(sample_rate=44_100, least_seconds=2.0)(audio).shape == (1, 1, 88_200)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(0.4, [0.0]), (10.0, [0.0]), (10.1, [0.0, 5.0]), (15.0, [0.0, 5.0]), (21.0, [0, 5.0, 10, 15])],
)
def test_passt_windows(seconds: float, starts: list[float]):
    """Ten seconds every five, as long as at least five of them are new."""
    ramp = torch.linspace(0.1, 1, round(seconds * 44_100)).expand(2, -1)
    windows = passt.PREPROCESSING(ramp)
    assert windows.shape == (len(starts), 1, 320_000)
    for window, start in zip(windows[:, 0], starts, strict=True):
        expected = (0.1 + 0.9 * (start + 0.1) / seconds) * 10 ** (-1 / 20)
        assert float(window[3200]) == pytest.approx(expected, rel=0.03)


def test_openl3_windows_are_centred():
    windows = openl3.PREPROCESSING(tone(440.0, 3.0))
    assert windows.shape == (6, 2, 48_000)  # 3.5 s with the half window in front
    assert not windows[0, 0, :23_000].any()
    assert windows[0, 0, 25_000:].any()
    assert not windows[:, 1].any()


def test_vggish_leaves_the_rest_out():
    assert vggish.PREPROCESSING(tone(440.0, 5.0)).shape == (5, 1, 15_600)
    assert vggish.PREPROCESSING(tone(440.0, 4.7)).shape == (4, 1, 15_600)
    assert vggish.PREPROCESSING(tone(440.0, 0.2)).shape == (2, 1, 15_600)  # at least two seconds


class Energy(nn.Module):
    def forward(self, windows: Tensor) -> Embedded:
        assert len(windows) <= 2
        return Embedded(windows.square().mean(dim=(1, 2))[:, None])


def test_embedder_joins_its_batches():
    preprocessing = Preprocessing(sample_rate=44_100, window_seconds=0.1, hop_seconds=0.1)
    embedder = Embedder("energy", preprocessing, Energy(), batch_size=2)
    gain = torch.arange(1, 6).repeat_interleave(4410)
    result = embedder(torch.ones(2, 22_050) * 0.1 * gain)
    torch.testing.assert_close(result.vectors[:, 0], (0.1 * torch.arange(1, 6)) ** 2)
    assert result.logits is None
    with pytest.raises(ValueError, match="embeds no text"):
        embedder.embed_text(["rain"])
    with pytest.raises(ValueError, match="2, samples"):
        embedder(torch.zeros(1, 100))
