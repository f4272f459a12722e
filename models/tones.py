"""Tones measured and tones played: the strongest spectral peak near each semitone, and a bank of sines that follow it.

A decoder that treats all frames alike turns constant latents into sound that repeats every frame: its tones fall on
multiples of the frame rate, 43 Hz. Sines whose phase goes on from frame to frame do not. There is one sine for each
semitone from C1 to C8, which may be detuned by a little more than half a semitone.

    tones (batch, 3 * NUM_TONES, frames): power in the left and in the right channel (1 = a full-scale sine), and cents

Source: Serra & Smith 1990 (peaks and sines); Engel et al. 2020 (arXiv 2001.04643).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.spectral_transform import Windows
from models.streaming import LayerStream, PointwiseLayer, pad

LOWEST_MIDI = 24
"""C1, 33 Hz; lower partials are left to the noise bins."""
NUM_TONES = 85
"""Semitones up to C8, 4.2 kHz."""
LOW_TONES = 36
"""Tones below C4, which the longer window measures."""
MAX_CENTS = 60.0
"""Farthest that a tone is from its semitone."""
LONG_WINDOW, SHORT_WINDOW = 8192, 4096
PROMINENCE = 2.8
"""Natural logarithm of a peak's power relative to the mean of the logarithms around it; noise seldom has so much."""
FAINTEST_TONE = 1e-5
"""Power below which a tone is none, -50 dBFS."""
FAINTEST_SHOWN = 1e-6
"""Power below which a tone is not shown to a network."""
SILENT_AMPLITUDE = 1e-4
"""Amplitude, -80 dB, below which a tone is not played."""
SYNTHESIS_FRAMES = 32
"""Frames that are synthesised at once, which bounds the memory."""


class TonePeaks(Windows):
    """The strongest peak near each semitone: (batch, 2, samples) -> tones (batch, 3 * NUM_TONES, frames).

    Hann windows of 8,192 samples below C4 and of 4,096 from there, padded to twice their length; a parabola through the
    logarithm of three bins gives frequency and power.
    """

    def __init__(self, hop: int, sample_rate: int) -> None:
        super().__init__(LONG_WINDOW, hop)
        self.sample_rate = sample_rate
        with torch.device("cpu"):
            for length in (LONG_WINDOW, SHORT_WINDOW):
                window = torch.hann_window(length)
                self.register_buffer(f"window_{length}", window * (2 / window.sum()), persistent=False)

    @torch.no_grad()
    def of_windows(self, windows: Tensor) -> Tensor:
        inner = (LONG_WINDOW - SHORT_WINDOW) // 2
        low = self._peaks(windows, LONG_WINDOW, 0, LOW_TONES)
        high = self._peaks(windows[..., inner : inner + SHORT_WINDOW], SHORT_WINDOW, LOW_TONES, NUM_TONES)
        return torch.cat((low, high), dim=-1).transpose(2, 3).flatten(1, 2)

    def _peaks(self, windows: Tensor, length: int, first: int, last: int) -> Tensor:
        """Power left, power right and cents of tones `first` to `last`: (batch, 3, frames, tones)."""
        bin_hz = self.sample_rate / (2 * length)
        lowest, highest = (tone_hz(torch.tensor([tone]))[0].item() for tone in (first, last))
        begin, end = max(2, int(lowest * 0.75 / bin_hz)), int(highest * 1.25 / bin_hz)
        spectrum = torch.fft.rfft(windows * getattr(self, f"window_{length}"), n=2 * length)[..., begin - 1 : end + 1]
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, 2, frames, bins)
        logs = (power.sum(dim=1) + 1e-10).log()
        before, middle, after = logs[..., :-2], logs[..., 1:-1], logs[..., 2:]
        is_peak = (middle >= before) & (middle > after) & (middle > _around(middle, begin) + PROMINENCE)
        curvature = (before - 2 * middle + after).clamp_max(-1e-6)
        offset = (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)  # of the parabola's top, in bins
        gain = (-0.25 * (before - after) * offset).exp()
        bins = torch.arange(begin, end, device=logs.device, dtype=torch.float32)
        midi = 69 + 12 * ((bins + offset) * (bin_hz / 440)).log2()
        tone = midi.round() - LOWEST_MIDI
        inside = is_peak & (tone >= first) & (tone < last)
        slot = (tone - first).clamp(0, last - first - 1).long()
        key = middle.exp() * inside
        strongest = torch.zeros(*key.shape[:2], last - first, device=key.device).scatter_reduce(2, slot, key, "amax")
        chosen = inside & (key >= strongest.gather(2, slot))
        cents = (100 * (midi - midi.round())).clamp(-MAX_CENTS, MAX_CENTS)
        values = torch.stack((*(power[..., 1:-1] * gain[:, None]).unbind(dim=1), cents), dim=1) * chosen[:, None]
        return torch.zeros(len(key), 3, *strongest.shape[1:], device=key.device).scatter_add(
            3, slot[:, None].expand(-1, 3, -1, -1), values
        )


class ToneFeatures(PointwiseLayer):
    """Tones as a network can read them: levels of about -0 to 2 and shares of `MAX_CENTS`; same shape."""

    def forward(self, tones: Tensor) -> Tensor:
        power, cents = split_tones(tones)
        level = power.clamp_min(FAINTEST_SHOWN).log() / 7 + 2
        is_on = power.amax(dim=1) > FAINTEST_SHOWN
        return torch.cat((level.flatten(1, 2), 2 * is_on * cents / MAX_CENTS), dim=1)


class ToneBank(nn.Module):
    """Plays tones that a network sets: (batch, channels, frames) -> (batch, 2, frames * hop).

    Amplitudes and frequencies go linearly from the middle of a frame to that of the next. Phases start at fixed values,
    in training at random ones.

    Args:
        channels: of the features that the gains are read from.
    """

    def __init__(self, channels: int, hop: int, sample_rate: int) -> None:
        super().__init__()
        self.hop, self.sample_rate = hop, sample_rate
        self.settings = nn.Conv1d(channels, 3 * NUM_TONES, kernel_size=1)

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin with all tones off and in tune."""
        self.settings.weight.normal_(std=0.3 * self.settings.in_channels**-0.5)
        self.settings.weight[2 * NUM_TONES :].mul_(0.3)
        cast(Tensor, self.settings.bias).fill_(math.log(SILENT_AMPLITUDE))
        cast(Tensor, self.settings.bias)[2 * NUM_TONES :].zero_()

    def tones(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes (batch, 2, NUM_TONES, frames) and cents (batch, NUM_TONES, frames)."""
        amplitudes, cents = self.settings(x).float().split((2 * NUM_TONES, NUM_TONES), dim=1)
        amplitudes = F.softplus(amplitudes).unflatten(1, (2, NUM_TONES))
        if not self.training:  # exactly 0, so that a tone that is not played costs nothing
            amplitudes = amplitudes * (amplitudes > SILENT_AMPLITUDE)
        return amplitudes, MAX_CENTS * torch.tanh(cents)

    def forward(self, x: Tensor) -> Tensor:
        return self.play(*self.tones(x))

    def play(self, amplitudes: Tensor, cents: Tensor) -> Tensor:
        """Audio (batch, 2, frames * hop) of tones, from the start of a stream on."""
        amplitudes, cents = (torch.cat((v[..., :1], v, v[..., -1:]), dim=-1) for v in (amplitudes, cents))
        audio, _ = self.play_from(amplitudes, cents, self.first_phases(len(cents)))
        return audio[..., self.hop // 2 : audio.shape[-1] - self.hop // 2]

    def first_phases(self, batch: int) -> Tensor:
        """Phases in cycles that a sound starts with, (batch, NUM_TONES) float64, spread so that peaks do not meet."""
        if self.training:
            return torch.rand(batch, NUM_TONES, dtype=torch.float64)
        return (0.618 * torch.arange(NUM_TONES, dtype=torch.float64).square() % 1).expand(batch, -1)

    def play_from(self, amplitudes: Tensor, cents: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
        """Play from the middle of the first frame to that of the last.

        Args:
            phases: in cycles at the start, (batch, NUM_TONES) float64.

        Returns:
            Audio (batch, 2, (frames - 1) * hop) and the phases at its end.
        """
        with torch.no_grad():  # on the CPU: not every device has float64
            base = tone_hz(torch.arange(NUM_TONES))[:, None] / self.sample_rate
            cycles = base * 2 ** (cents.cpu().double() / 1200)  # per sample, (batch, tones, frames)
            steps = 0.5 * self.hop * (cycles[..., 1:] + cycles[..., :-1])
            ends = torch.cat((phases.cpu()[..., None], steps), dim=-1).cumsum(dim=-1) % 1
        pieces = []
        for first in range(0, cycles.shape[-1] - 1, SYNTHESIS_FRAMES):
            span = slice(first, first + SYNTHESIS_FRAMES + 1)
            pieces.append(self._segments(amplitudes[..., span], cycles[..., span], ends[..., span]))
        return torch.cat(pieces, dim=-1), ends[..., -1]

    def _segments(self, amplitudes: Tensor, cycles: Tensor, phases: Tensor) -> Tensor:
        """Waves between the middles of neighbouring frames, (batch, 2, (frames - 1) * hop)."""
        sounding = (amplitudes.detach().amax(dim=(0, 1, 3)) > 0).nonzero().flatten()
        amplitudes = amplitudes.index_select(-2, sounding)
        with torch.no_grad():
            cycles, phases = (v.index_select(-2, sounding.cpu()) for v in (cycles, phases))
            slope = (cycles[..., 1:] - cycles[..., :-1]) / (2 * self.hop)
            terms = 2 * math.pi * torch.stack((phases[..., :-1], cycles[..., :-1], slope))
            terms = terms.float().to(amplitudes.device).transpose(2, 3)
            start, rate, bend = terms[..., None].unbind()  # (batch, frames - 1, tones, 1) each
            samples = torch.arange(self.hop, dtype=torch.float32, device=amplitudes.device)
            waves = (bend * samples).add_(rate).mul_(samples).add_(start).cos_()  # (batch, frames - 1, tones, hop)
        now, step = amplitudes[..., :-1], amplitudes[..., 1:] - amplitudes[..., :-1]
        now, step = (torch.cat((now, step), dim=1).permute(0, 3, 1, 2) @ waves).chunk(2, dim=2)
        return (now + step * (samples / self.hop)).transpose(1, 2).flatten(2)

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return ToneBankStream(self)


class ToneBankStream(LayerStream):
    """A tone bank that carries the phases and the last frame's settings."""

    carried = ("phases", "last_tones")

    def __init__(self, layer: ToneBank) -> None:
        self.layer = layer
        self.phases: Tensor | None = None  # (batch, NUM_TONES) at the middle of the last frame
        self.last_tones: list[Tensor] | None = None  # amplitudes and cents

    def push(self, x: Tensor, last: bool) -> Tensor:
        half = self.layer.hop // 2
        amplitudes, cents = self._tones(x)
        skipped = half if self.last_tones is None and x.shape[-1] else 0
        if self.last_tones is None:  # the first frame's settings hold from the start on
            self.phases = self.layer.first_phases(len(x))
            before = [amplitudes[..., :1], cents[..., :1]]
        else:
            before = self.last_tones
        amplitudes, cents = (torch.cat(pair, dim=-1) for pair in zip(before, (amplitudes, cents), strict=True))
        if cents.shape[-1] == 0:
            return x.new_zeros(len(x), 2, 0)
        self.last_tones = [amplitudes[..., -1:].clone(), cents[..., -1:].clone()]
        if last:
            amplitudes, cents = (torch.cat((v, v[..., -1:]), dim=-1) for v in (amplitudes, cents))
        if cents.shape[-1] == 1:
            return x.new_zeros(len(x), 2, 0)
        assert self.phases is not None
        audio, self.phases = self.layer.play_from(amplitudes, cents, self.phases)
        return audio[..., skipped : audio.shape[-1] - half if last else None]

    def _tones(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1]:
            return self.layer.tones(x)
        amplitudes, cents = self.layer.tones(pad(x, 1))
        return amplitudes[..., :0], cents[..., :0]

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        hop = self.layer.hop
        return (first - hop // 2) // hop, (last - hop // 2) // hop + 1


def split_tones(tones: Tensor) -> tuple[Tensor, Tensor]:
    """Power (batch, 2, NUM_TONES, frames) and cents (batch, NUM_TONES, frames) of tones."""
    power, cents = tones.split((2 * NUM_TONES, NUM_TONES), dim=1)
    return power.unflatten(1, (2, NUM_TONES)), cents


def tone_hz(tone: Tensor) -> Tensor:
    """Frequency of tones by number, float64."""
    return 440 * 2 ** ((tone.double() + (LOWEST_MIDI - 69)) / 12)


def _around(logs: Tensor, begin: int) -> Tensor:
    """Mean of the logarithms from 19 % below to 19 % above every bin; `begin` is the number of the first bin."""
    num_bins = logs.shape[-1]
    bins = torch.arange(num_bins, device=logs.device)
    reach = (0.19 * (bins + begin)).long().clamp_min(12)
    low, high = (bins - reach).clamp_min(0), (bins + reach + 1).clamp_max(num_bins)
    sums = F.pad(logs.cumsum(dim=-1), (1, 0))
    return (sums[..., high] - sums[..., low]) / (high - low)
