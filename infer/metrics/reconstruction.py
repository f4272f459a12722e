"""How far a reconstruction is from its original, measured on a stream of both at constant memory.

STFT distance, mel distance and SI-SDR are those of auraloss with default parameters (`STFTLoss`, `MelSTFTLoss`,
`SISDRLoss` on one clip), as in the tables of Stable Audio Open; here the sums behind them grow with the stream, and
end at the value for the whole clip. Loudness is ITU-R BS.1770; stereo width is the side's share of the energy.

    STFT distance   norm(|X| - |Y|) / norm(|Y|) + mean |log |X| - log |Y||, window 1024, hop 256
    mel distance    the same in 128 mel bands
    SI-SDR          of each channel, then their mean (dB)

Tensors: audio (channels, samples); X reconstruction, Y original.

Sources: Steinmetz & Reiss 2020 (auraloss); Evans et al. 2024 (arXiv 2407.14358), tables 3 and 4; Le Roux et al. 2019.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from infer.metrics.loudness import LoudnessMeter
from infer.metrics.spectra import mel_bank
from models.errors import UserError

FFT_SIZE = 1024
HOP_SIZE = 256
NUM_MELS = 128
POWER_FLOOR = 1e-8  # auraloss: least power of a bin
ENERGY_FLOOR = 1e-8  # auraloss: added to the energies in SI-SDR
SILENCE_POWER = 1e-10  # mean square (-100 dBFS) under which a channel has no SI-SDR


@dataclass(frozen=True, kw_only=True)
class ReconstructionReport:
    """The metrics of one clip; None where the clip does not define them."""

    stft_distance: float | None
    """Smaller is better; auraloss' STFTLoss. None for a silent or constant original, whose spectrum is its floor."""
    mel_distance: float | None
    """Smaller is better; auraloss' MelSTFTLoss. None for a silent or constant original."""
    si_sdr_db: float | None
    """Larger is better; None for a silent or constant original."""
    loudness_difference_lu: float | None
    """Reconstruction minus original; None when one of them is shorter than 400 ms or silent."""
    width_difference: float | None
    """Side energy / (mid + side energy), reconstruction minus original; None for silence or mono."""

    @property
    def is_silent(self) -> bool:
        """Whether the original is silent or constant, so that no distance to it means anything."""
        return self.si_sdr_db is None


class ReconstructionMetrics:
    """Takes the same stretch of original and reconstruction again and again, then reports.

    Args:
        sample_rate: Hz.
        num_channels: 1 or 2.
    """

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._spectra = SpectralDistances(sample_rate)
        self._sums = torch.zeros(6, num_channels, dtype=torch.float64)  # 1, x, y, xx, yy, xy
        self._mid_side = torch.zeros(2, 2, dtype=torch.float64)  # energy of (mid, side) x (reconstruction, original)
        self._meters = [LoudnessMeter(sample_rate, num_channels) for _ in range(2)]

    def push(self, reconstruction: Tensor, original: Tensor) -> None:
        """Take the next samples of both, (channels, samples) each."""
        if reconstruction.shape != original.shape:
            raise ValueError(f"both must have one shape, got {tuple(reconstruction.shape)}, {tuple(original.shape)}")
        self._spectra.push(reconstruction, original)
        for meter, audio in zip(self._meters, (reconstruction, original), strict=True):
            meter.push(audio.numpy())
        x, y = reconstruction.double(), original.double()
        self._sums += torch.stack([v.sum(dim=1) for v in (torch.ones_like(x), x, y, x * x, y * y, x * y)])
        if len(x) == 2:
            sides = [torch.stack((v[0] + v[1], v[0] - v[1])) for v in (x, y)]  # (mid and side, samples)
            self._mid_side += torch.stack([v.square().sum(dim=1) for v in sides], dim=1)

    def report(self) -> ReconstructionReport:
        """End the stream."""
        stft_distance, mel_distance = self._spectra.finish()
        si_sdr = self._si_sdr()
        loudness, loudness_original = (meter.lufs() for meter in self._meters)
        return ReconstructionReport(
            stft_distance=None if si_sdr is None else stft_distance,
            mel_distance=None if si_sdr is None else mel_distance,
            si_sdr_db=si_sdr,
            loudness_difference_lu=(
                None if loudness is None or loudness_original is None else loudness - loudness_original
            ),
            width_difference=self._width_difference(),
        )

    def _si_sdr(self) -> float | None:
        """Source: Le Roux et al. 2019, eq. 5, of the signals without their means."""
        count, x, y, xx, yy, xy = self._sums
        xx, yy, xy = xx - x * x / count, yy - y * y / count, xy - x * y / count
        heard = yy > SILENCE_POWER * count
        if not heard.any():
            return None
        scale = xy / (yy + ENERGY_FLOOR)
        target = scale.square() * yy
        residual = (xx - 2 * scale * xy + target).clamp_min(0)
        ratio = target / (residual + ENERGY_FLOOR) + ENERGY_FLOOR
        return 10 * ratio.log10()[heard].mean().item()

    def _width_difference(self) -> float | None:
        energy = self._mid_side.sum(dim=0)
        if (energy <= SILENCE_POWER * self._sums[0, 0]).any():
            return None
        width, width_original = (self._mid_side[1] / energy).tolist()
        return width - width_original


class SpectralDistances:
    """STFT and mel distance, from sums over frames; the clip's ends are mirrored, as in a centred STFT."""

    def __init__(self, sample_rate: int) -> None:
        self._window = torch.hann_window(FFT_SIZE)
        bank = mel_bank(FFT_SIZE, NUM_MELS, highest_hz=sample_rate / 2, sample_rate=sample_rate)
        self._mel_bank = bank.float().T  # (mels, bins)
        self._audio: Tensor | None = None  # (2 channels, samples): reconstruction and original not yet transformed
        self._started = False
        self._sums = torch.zeros(2, 4, dtype=torch.float64)  # (STFT, mel) x (error, original, log error, count)

    def push(self, reconstruction: Tensor, original: Tensor) -> None:
        """Take the next samples, (channels, samples) each."""
        audio = torch.cat((reconstruction, original)).float()
        self._audio = audio if self._audio is None else torch.cat((self._audio, audio), dim=-1)
        if self._started or self._audio.shape[-1] > FFT_SIZE:
            self._start()
            self._transform()

    def finish(self) -> tuple[float, float]:
        """STFT distance and mel distance of all that was pushed."""
        if self._audio is None:
            raise UserError("there is nothing to measure: no audio was pushed")
        if not self._started and self._audio.shape[-1] <= FFT_SIZE:  # too short to mirror
            self._audio = torch.nn.functional.pad(self._audio, (0, FFT_SIZE + 1 - self._audio.shape[-1]))
        self._start()
        mirrored = self._audio[..., -FFT_SIZE // 2 - 1 : -1].flip(-1)
        self._audio = torch.cat((self._audio, mirrored), dim=-1)
        self._transform()
        error, original, log_error, count = self._sums.unbind(dim=1)
        convergence = error.sqrt() / original.sqrt()
        stft, mel = (convergence + log_error / count).tolist()
        return stft, mel

    def _start(self) -> None:
        if not self._started:
            self._started = True
            assert self._audio is not None
            mirrored = self._audio[..., 1 : FFT_SIZE // 2 + 1].flip(-1)
            self._audio = torch.cat((mirrored, self._audio), dim=-1)

    def _transform(self) -> None:
        """Add all whole frames to the sums; keep what later frames and the mirrored end need."""
        assert self._audio is not None
        num_frames = (self._audio.shape[-1] - FFT_SIZE) // HOP_SIZE + 1
        if num_frames <= 0:
            return
        used = self._audio[..., : (num_frames - 1) * HOP_SIZE + FFT_SIZE]
        spectrum = torch.stft(used, FFT_SIZE, HOP_SIZE, FFT_SIZE, self._window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        magnitude = power.clamp_min(POWER_FLOOR).sqrt()  # (2 channels, bins, frames)
        for sums, values in zip(self._sums, (magnitude, self._mel_bank @ magnitude), strict=True):
            x, y = values.double().chunk(2)
            log_error = (x.log() - y.log()).abs().sum()
            sums += torch.stack(((x - y).square().sum(), y.square().sum(), log_error, torch.tensor(float(x.numel()))))
        self._audio = self._audio[..., num_frames * HOP_SIZE :].clone()
